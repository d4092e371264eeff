"""Spaces as files have them."""

import pytest

from kdray.errors import ConfigError
from kdray.experiment.schema import Experiment
from kdray.experiment.space import Alternative, Choice, Group, Integer, Space, Uniform
from kdray.experiment.space_text import ROOTS, parse_space, plain_space
from kdray.experiment.yaml_text import parse

TEXT = """
train.optimizer.lr: loguniform(0.001, 0.3)
train.batch: [64, 128]
data.fraction: uniform(0.25, 1, 0.25)
student.params.width: int(8, 64, 8)
data.limit: logint(10, 1000)
method:
  kd: {objectives.kd.weight: uniform(0.1, 2), objectives.kd.temperature: choice(2, 4, 8)}
  mcld:
    objectives.mcld: {}
    objectives.kd: null
    objectives.mcld.instance.mask: exclude
    objectives.mcld.instance.weight: loguniform(0.1, 3)
    half: {low: {train.precision: bf16}, high: null}
  named: {objectives.x: {type: "my.module:Thing"}, student.model: "net(1)"}
"""


def test_the_whole_syntax():
    space = parse_space(parse(TEXT, "t").value)
    half = Group("half", {"low": Alternative({"train.precision": "bf16"}), "high": Alternative()})
    mcld = {"objectives.mcld": {}, "objectives.kd": None, "objectives.mcld.instance.mask": "exclude"}
    assert space == Space(
        {
            "train.optimizer.lr": Uniform(0.001, 0.3, log=True),
            "train.batch": Choice((64, 128)),
            "data.fraction": Uniform(0.25, 1, 0.25),
            "student.params.width": Integer(8, 64, 8),
            "data.limit": Integer(10, 1000, log=True),
        },
        (
            Group(
                "method",
                {
                    "kd": Alternative(
                        {},
                        Space(
                            {"objectives.kd.weight": Uniform(0.1, 2), "objectives.kd.temperature": Choice((2, 4, 8))}
                        ),
                    ),
                    "mcld": Alternative(
                        mcld, Space({"objectives.mcld.instance.weight": Uniform(0.1, 3, log=True)}, (half,))
                    ),
                    "named": Alternative({"objectives.x": {"type": "my.module:Thing"}, "student.model": "net(1)"}),
                },
            ),
        ),
    )
    assert parse_space(plain_space(space)) == space


def test_a_choice_takes_all_scalars():
    values = parse_space({"train.x": 'choice(2, 2.5, true, null, plain, "true", "a, b", 1e-3)'}).parameters["train.x"]
    assert values == Choice((2, 2.5, True, None, "plain", "true", "a, b", 0.001))


def test_nested_maps_are_paths():
    """What `--set search.space.objectives.kd.weight=...` makes."""
    nested = {"objectives": {"kd": {"weight": "uniform(0, 1)"}, "clmkd.class_guided": {"weight": "uniform(0, 2)"}}}
    assert parse_space(nested).names() == ["objectives.kd.weight", 'objectives."clmkd.class_guided".weight']
    with pytest.raises(ConfigError, match="is given twice"):
        parse_space(nested | {"objectives.kd.weight": "uniform(0, 1)"})


@pytest.mark.parametrize(
    "plain, said",
    [
        ("x", r"^search\.space: wants a map, but x stands there"),
        ({"train.lr": "abc"}, r"^search\.space\.train\.lr: abc is no distribution\. Write uniform\(0\.1, 1\), "),
        ({"train.lr": 3}, "3 is no distribution"),
        ({"train.lr": None}, "null is no distribution"),
        ({"train": {}}, r"\{\} is no distribution"),
        ({"train.lr": "unifrom(0, 1)"}, r"unknown distribution 'unifrom' \(did you mean 'uniform'\?\)"),
        ({"train.lr": "normal(0, 1)"}, r'"normal\(0, 1\)" is no distribution'),
        ({"train.lr": "unif(0, 1)"}, r"did you mean 'uniform'"),
        ({"train.lr": "uniform(0, 1"}, r"no closing bracket\. Write uniform\(0\.1, 1\); .* quotes"),
        ({"train.lr": "uniform(1)"}, r"uniform\(1\): uniform takes 2 or 3 numbers\. Write uniform\(0\.1, 1\)"),
        ({"train.lr": "loguniform(1, 2, 1)"}, r"loguniform takes 2 numbers"),
        ({"train.lr": "uniform(2, 1)"}, r"^search\.space\.train\.lr: uniform\(2, 1\): 2 is not below 1"),
        ({"train.lr": "uniform(a, b)"}, r"a is not a finite number"),
        ({"train.lr": "int(1, 2.5)"}, r"2\.5 is not a whole number"),
        ({"train.lr": "int(010, 20)"}, r"int\(010, 20\): 010 is ambiguous"),
        ({"train.lr": "choice(.inf)"}, r"not a finite number"),
        ({"train.lr": "choice([1], 2)"}, r"\[1\] cannot be chosen"),
        ({"train.lr": []}, r"^search\.space\.train\.lr: has nothing to choose from"),
        ({"objectivs.kd.weight": "uniform(0, 1)"}, r"'objectivs' .*did you mean 'objectives'.* A path begins with"),
        ({"storage": ["a", "b"]}, r"'storage' is not a part of an experiment that can be searched"),
        ({"m": [1, 2]}, r"^search\.space\.m: 'm' is not a part"),
        ({"m.n": {"a": {}}}, r"'m\.n' cannot be the name of a group"),
        ({"m": {}}, r"^search\.space\.m: is a group without alternatives"),
        ({"m": {"a": 3}}, r"^search\.space\.m\.a: wants a map, but 3 stands there"),
        ({"m": {"a b": {}}}, r"cannot be the name of an alternative"),
        ({"m": {"a": {"train.lr": "uniform(2, 1)"}}}, r"^search\.space\.m\.a\.train\.lr: uniform\(2, 1\): 2 is not"),
        ({"m": {"a": {"train.lr": "loguniforn(1, 2)"}}}, r"did you mean 'loguniform'"),
        ({"m": {"a": {"tain.lr": 3}}}, r"^search\.space\.m\.a\.tain\.lr: 'tain' .*did you mean 'train'"),
        (
            {"m": {"a": {"objectives.kd": {"weight": "uniform(0, 1)"}}}},
            r"^search\.space\.m\.a\.objectives\.kd\.weight: .* inside a fixed map\. Give it a line of its own: "
            r"objectives\.kd\.weight: uniform\(0, 1\)",
        ),
        (
            {"objectives.kd.weight": "uniform(0, 1)", "m": {"a": {"objectives.kd": None}}},
            r"^search\.space\.objectives\.kd\.weight: is set where objectives\.kd is taken away",
        ),
        (
            {"m": {"a": {"n": {"b": {"train.x": 1}}, "train.x": [1, 2]}}},
            r"^search\.space\.m\.a\.train\.x: is given twice",
        ),
    ],
)
def test_errors_name_key_text_and_way_out(plain, said):
    with pytest.raises(ConfigError, match=said) as error:
        parse_space(plain)
    assert error.value.fix


def test_what_can_be_searched_stands_in_the_schema():
    assert set(ROOTS) <= set(Experiment.model_fields)
