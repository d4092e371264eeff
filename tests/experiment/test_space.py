"""Branches of a space: what is set on each, and what cannot stand on one."""

import pytest

from kdray.errors import ConfigError
from kdray.experiment.space import Alternative, Choice, Group, Integer, Space, Uniform

KD, T = "objectives.kd.weight", "objectives.kd.temperature"
LR, BATCH = "train.optimizer.lr", "train.batch"
SPACE = Space(
    {LR: Uniform(0.001, 0.3, log=True), BATCH: Choice((64, 128))},
    (
        Group(
            "method",
            {
                "kd": Alternative({"objectives.rkd": None}, Space({KD: Uniform(0.1, 2), T: Choice((2, 4))})),
                "mcld": Alternative(
                    {"objectives.mcld": {}, "objectives.kd": None},
                    Space({}, (Group("mask", {"on": Alternative({"objectives.mcld.instance.mask": "exclude"})}),)),
                ),
                "none": Alternative(),
            },
        ),
    ),
)


def test_names_and_texts():
    assert SPACE.names() == [LR, BATCH, "method", KD, T, "mask"]
    assert SPACE.texts()["method"] == "choice(kd, mcld, none)"
    assert SPACE.texts()[LR] == "loguniform(0.001, 0.3)"
    assert [group.name for group in SPACE.all_groups()] == ["method", "mask"]
    assert SPACE.size() is None
    assert Space({BATCH: Choice((64, 128))}, SPACE.groups[:0]).size() == 2


def test_size_counts_what_each_alternative_has():
    ways = {"a": Alternative({}, Space({T: Choice((2, 4, 8))})), "b": Alternative()}
    assert Space({BATCH: Integer(8, 24, 8)}, (Group("g", ways),)).size() == 3 * (3 + 1)


def test_changes_of_a_branch():
    taken = {LR: 0.01, BATCH: 64, "method": "mcld", "mask": "on"}
    changes = SPACE.changes(taken)
    assert list(changes.items()) == [
        (LR, 0.01),
        (BATCH, 64),
        ("objectives.mcld", {}),
        ("objectives.kd", None),
        ("objectives.mcld.instance.mask", "exclude"),
    ]
    assert SPACE.changes({LR: 0.01, BATCH: 64, "method": "none"}) == {LR: 0.01, BATCH: 64}


@pytest.mark.parametrize(
    "change, said",
    [
        ({LR: None}, rf"^{LR}: has no value\. Give one of loguniform"),
        ({LR: 0.5}, rf"^{LR}: 0\.5 is not in loguniform\(0\.001, 0\.3\)"),
        ({"method": "mlcd"}, r"^method: mlcd is not in .* \(did you mean 'mcld'\?\)"),
        ({"method": "none"}, rf"^{KD}: belongs to another alternative"),
        ({"train.optimizer.lrr": 1}, rf"is not searched \(did you mean '{LR}'\?\)"),
        ({BATCH: "64"}, rf'^{BATCH}: "64" is not in choice\(64, 128\)'),
    ],
)
def test_validate_says_what_is_wrong(change, said):
    good = {LR: 0.01, BATCH: 64, "method": "kd", KD: 0.5, T: 4}
    SPACE.validate(good)
    bad = {name: value for name, value in (good | change).items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        SPACE.validate(bad)


def one_way(fixed=None, parameters=None, groups=(), name="g"):
    return Group(name, {"a": Alternative(fixed or {}, Space(parameters or {}, groups))})


U = Uniform(0, 1)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Space({KD: U}, (one_way({KD: 1}),)), "given twice on one branch"),
        (lambda: Space({KD: U}, (one_way({}, {KD: U}),)), "given twice on one branch"),
        (lambda: one_way({KD: 1}, {KD: U}), "given twice on one branch"),
        (lambda: one_way({KD: 1}, {'objectives."kd".weight': U}), "given twice on one branch"),
        (lambda: Space({}, (one_way({KD: 1}), one_way({KD: 2}, name="h"))), "given twice on one branch"),
        (
            lambda: Space({KD: U}, (one_way({"objectives.kd": None}),)),
            f"{KD}: is set where objectives.kd is taken away",
        ),
        (lambda: one_way({"objectives.kd": None}, {KD: U}), "is taken away"),
        (lambda: Space({}, (one_way(), one_way())), "two groups are called g"),
        (lambda: one_way({}, {}, (one_way(name="h"), one_way(name="h"))), "two groups are called h"),
        (lambda: Group("g", {}), "without alternatives"),
    ],
)
def test_what_cannot_stand_on_one_branch(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def two_ways(one, other):
    return Space({}, (Group("g", {"a": Alternative({}, Space({T: one})), "b": Alternative({}, Space({T: other}))}),))


def test_alternatives_may_search_a_path_in_different_ranges():
    space = two_ways(Uniform(0, 1), Uniform(0, 2))
    assert space.names() == ["g", T]
    assert space.texts()[T] == "uniform(0, 1) or uniform(0, 2)"
    space.validate({"g": "b", T: 1.5})
    with pytest.raises(ConfigError, match="is not in uniform"):
        space.validate({"g": "a", T: 1.5})
    Space({}, (Group("g", {"a": Alternative({KD: 1}), "b": Alternative({KD: 2})}),))


@pytest.mark.parametrize(
    "one, other",
    [
        (U, Integer(0, 1)),
        (U, Uniform(0.1, 1, log=True)),
        (Choice((1, 2)), Choice((1, 3))),
        (Choice((1, 2)), Integer(1, 2)),
    ],
)
def test_alternatives_may_not_search_a_path_in_different_ways(one, other):
    with pytest.raises(ConfigError, match=f"{T}: is .* in one alternative and .* in another"):
        two_ways(one, other)
