"""A space is tried on its experiment before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from kdray.errors import ConfigError, ModelError
from kdray.experiment import Experiment, experiment_from_dict
from kdray.experiment.space_text import parse_space
from kdray.objectives.search_space import default_space
from kdray.tune.checks import check_space, probes

BASE: dict[str, Any] = {
    "data": {"source": "digits"},
    "student": {"model": "m"},
    "teacher": {"model": "t"},
    "objectives": {"ce": {}, "kd": {}, "clmkd.class_guided": {"mode": "inbatch"}},
    "train": {"epochs": 5, "batch": 8, "optimizer": {"lr": 0.1}},
}
E = experiment_from_dict(BASE)
GOOD = {
    "train.optimizer.lr": "loguniform(0.01, 1)",
    "objectives.kd.temperature": [2, 4],
    "teacher.objectives.ce.label_smoothing": "uniform(0, 0.2)",
    "method": {
        "kd": {},
        "rkd": {"objectives.kd.weight": 0, "objectives.rkd": {}, "objectives.rkd.angle": "loguniform(5, 100)"},
    },
}


def test_probes_try_every_end_choice_and_alternative() -> None:
    space = parse_space(GOOD)
    found = list(probes(space))
    for _, parameters in found:
        space.validate(parameters)
    tried = {(name, parameters.get(name)) for name, parameters in found}
    lr, angle = "train.optimizer.lr", "objectives.rkd.angle"
    assert {("method", "kd"), ("method", "rkd"), (lr, 0.01), (lr, 1.0), (angle, 5.0), (angle, 100.0)} <= tried
    assert {("objectives.kd.temperature", 2), ("objectives.kd.temperature", 4)} <= tried
    assert found[0][0] == "" and found[0][1][lr] == pytest.approx(0.1)
    assert len(found) == 1 + 2 + 2 + 2 + 2 + 2


def test_good_spaces_pass_and_each_experiment_is_looked_at() -> None:
    seen: list[Experiment] = []
    check_space(E, parse_space(GOOD), seen.append)
    assert len(seen) == 11
    assert {one.train.optimizer.lr for one in seen} >= {0.01, 1.0}
    check_space(E, default_space(E.objectives))


@pytest.mark.parametrize(
    "plain, said",
    [
        (
            {"objectives.kd.temprature": "choice(2, 4)"},
            r"^search\.space\.objectives\.kd\.temprature: value 2: kd has no such parameter "
            r"\(did you mean 'temperature'\?\)",
        ),
        ({"objectives.kdd.weight": [1]}, r"^search\.space\.objectives\.kdd\.weight: value 1: unknown method 'kdd'"),
        (
            {"objectives.clmkd.class_guided.temprature": "uniform(0.1, 1)"},
            r"class_guided\.temprature: value 0\.55: .*did you mean 'temperature'",
        ),
        (
            {"train.optimzer.lr": "uniform(0.1, 1)"},
            r"^search\.space\.train\.optimzer\.lr: value 0\.55: unknown key 'optimzer' \(did you mean 'optimizer'\?\)",
        ),
        (
            {"objectives.kd.weight": "uniform(-1, 3)"},
            r"^search\.space\.objectives\.kd\.weight: value -1\.0: -1\.0 should be greater than or equal to 0",
        ),
        ({"train.batch": [8, 16, 0]}, r"^search\.space\.train\.batch: value 0: 0 is out of range"),
        ({"train.epochs": "uniform(1, 5)"}, r"^search\.space\.train\.epochs: value 3\.0: wants a whole number"),
        (
            {"train.schedule.warmup_epochs": "int(0, 8)"},
            r"^search\.space\.train\.schedule\.warmup_epochs: value 8: a warmup of 8 epochs fills all 5",
        ),
        (
            {"teacher.objectives.ce.smoothing": [0.1]},
            r"^search\.space\.teacher\.objectives\.ce\.smoothing: value 0\.1: .*did you mean 'label_smoothing'",
        ),
        (
            {"m": {"a": {}, "b": {"objectives.kd": {"weigt": 1}}}},
            r'^search\.space\.m: value "b": objectives\.kd\.weigt: kd has no such parameter',
        ),
        ({"m": {"a": {}, "b": {"objectives.rkd": None}}}, r'value "b": .*there is no objective \'rkd\' to take away'),
        (
            {"m": {"a": {}, "b": {"objectives.rkd.angle": "uniform(-5, 100)"}}},
            r"^search\.space\.objectives\.rkd\.angle: value -5\.0: -5\.0 should be greater",
        ),
    ],
)
def test_errors_name_path_value_and_what_was_wrong(plain: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_space(E, parse_space(plain))


def test_what_the_caller_finds_is_told_in_the_same_way() -> None:
    def no_wide_ones(experiment: Experiment) -> None:
        if experiment.student is not None and experiment.student.params.get("width", 0) > 30:
            raise ModelError("too wide", where="student.params.width", fix="Take a narrower one")

    space = parse_space({"student.params.width": "int(8, 32, 8)"})
    with pytest.raises(ConfigError) as error:
        check_space(E, space, no_wide_ones)
    assert str(error.value) == "search.space.student.params.width: value 32: too wide. Take a narrower one"


def test_what_no_one_parameter_is_to_blame_for_names_all() -> None:
    def never(experiment: Experiment) -> None:
        raise ModelError("no", where="student.model")

    with pytest.raises(ConfigError, match=r"^search\.space: student\.model: no\. Tried: train\.batch=8"):
        check_space(E, parse_space({"train.batch": [8, 16]}), never)
