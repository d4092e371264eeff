"""A trial's experiment: the one of the file, with a few values changed."""

import pytest

from kdray.errors import ConfigError
from kdray.experiment import digest_of, experiment_from_dict, with_changes

VALUES = {
    "data": {"source": "digits", "pack": None, "mix": {"mixup": 0.2}},
    "teacher": {"model": "big"},
    "student": {"model": "small", "params": {"width": 8}},
    "objectives": {"ce": {}, "kd": {"weight": 0.9}, "clmkd": {}, "clmkd.class_guided": {"mode": "inbatch"}},
    "train": {"epochs": 10, "batch": 64, "optimizer": {"lr": 0.1, "momentum": 0.8}},
    "evaluate": {"linear_probe": True},
}


def build(**changes):
    return experiment_from_dict(VALUES | changes)


def packed():
    data = {"train": "x/train", "test": "x/test", "pack": {"source": "x/tars"}}
    return build(data=data)


@pytest.mark.parametrize("make", [build, packed, lambda: build(search={"trials": 3})])
def test_nothing_changed_is_the_same_experiment(make):
    e = make()
    assert with_changes(e, {}) == e
    again = with_changes(e, {"seed": e.seed})
    assert again == e
    assert digest_of(again) == digest_of(e)
    assert digest_of(again, results_only=False) == digest_of(e, results_only=False)


def test_paths_lead_to_the_longest_key_that_stands_there():
    e = with_changes(
        build(),
        {
            "objectives.clmkd.gradient_relation.weight": 0.3,
            "objectives.clmkd.class_guided.weight": 0.4,
            "train.schedule.warmup_epochs": 2,
            "student.params.width": 16,
        },
    )
    assert e.objectives["clmkd"] == {"gradient_relation": {"weight": 0.3}}
    assert e.objectives["clmkd.class_guided"] == {"mode": "inbatch", "weight": 0.4}
    assert (e.train.schedule.warmup_epochs, e.student.params) == (2.0, {"width": 16})
    assert build().objectives["clmkd"] == {}


def test_null_takes_an_objective_away_and_a_map_adds_one():
    changes = {"objectives.mcld.instance.weight": 0.5, "objectives.mcld": {"kd": {"weight": 1}}, "objectives.kd": None}
    e = with_changes(build(), changes)
    assert list(e.objectives) == ["ce", "clmkd", "clmkd.class_guided", "mcld"]
    assert e.objectives["mcld"] == {"kd": {"weight": 1}, "instance": {"weight": 0.5}}


def test_a_new_name_with_dots_takes_quotes():
    e = with_changes(build(), {'objectives."mlkd.alignment".weight': 2.0})
    assert e.objectives["mlkd.alignment"] == {"weight": 2.0}


def test_the_order_of_changes_does_not_matter():
    changes = {"train.optimizer.lr": 0.01, "train.optimizer.weight_decay": 0.05, "train.optimizer.type": "adamw"}
    e = with_changes(build(), changes)
    assert (e.train.optimizer.type, e.train.optimizer.lr, e.train.optimizer.momentum) == ("adamw", 0.01, 0.9)
    assert e == with_changes(build(), dict(reversed(changes.items())))


def test_a_teacher_with_its_own_training_stays_as_it_is():
    own = build(teacher={"model": "big", "train": {"epochs": 20}})
    changed = with_changes(own, {"train.optimizer.lr": 0.3, "train.clip_norm": 1.0})
    assert changed.teacher == own.teacher
    assert (changed.train.optimizer.lr, changed.train.clip_norm) == (0.3, 1.0)
    begun = with_changes(build(), {"teacher.train.epochs": 5})
    assert (begun.teacher.train.epochs, begun.teacher.train.optimizer.lr) == (5, 0.1)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"train.optimizer.lr": 0}, r"^search\.space: train\.optimizer\.lr: 0 is out of range"),
        ({"train.optimzer.lr": 1}, r"^search\.space: train\.optimzer: unknown key .*did you mean 'optimizer'"),
        ({"student.model.x": 1}, r"^search\.space: student\.model\.x: student\.model is 'small', so it holds no 'x'"),
        ({"objectives.kdd": None}, r"^search\.space: objectives\.kdd: there is no objective 'kdd' .*did you mean 'kd'"),
        ({"train.batch": 65}, r"^search\.space: train\.batch: images are mixed in pairs"),
        ({"train..lr": 1}, "is not a dotted path"),
    ],
)
def test_errors_say_where_the_change_comes_from(changes, said):
    with pytest.raises(ConfigError, match=said):
        with_changes(build(), changes)
    with pytest.raises(ConfigError, match=said.replace(r"search\.space", r"search\.transfer\.set")):
        with_changes(build(), changes, "search.transfer.set")
