"""`phases:` of a file: what they may say, what is refused, and what a lineage makes of itself."""

from __future__ import annotations

from typing import Any

import pytest

from kdray.errors import ConfigError
from kdray.experiment import Experiment, digest_of, experiment_from_dict, load_experiment, phases_of, to_yaml
from kdray.experiment.phases_part import lay

BASE: dict[str, Any] = {
    "data": {"source": "digits"},
    "student": {"model": "resnet8"},
    "objectives": {"ce": {}, "kd": {"weight": 1}, "clmkd.class_guided": {}},
    "train": {"epochs": 8, "batch": 32, "optimizer": {"lr": 0.1}},
}
KD = "objectives.kd.weight"


def experiment(*phases: Any, **changes: Any) -> Experiment:
    return experiment_from_dict({**BASE, "phases": list(phases), **changes}, "x")


def refused(*phases: Any, **changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        experiment(*phases, **changes)
    return str(error.value)


def test_each_is_laid_over_the_former() -> None:
    e = experiment(
        {"from_epoch": 3, "set": {KD: 0.5, "train.optimizer.lr": 1}},
        {"from_epoch": 6, "set": {"objectives.clmkd.class_guided.weight": 0.2, "train.clip_norm": None}},
        {"from_epoch": 7, "set": {"objectives.ce.schedule.type": "cosine", "train.optimizer.weight_decay": 0}},
        train={**BASE["train"], "clip_norm": 1.0},
    )
    first, second, third = lay(e.phases, e.objectives, e.train)
    assert first.objectives == {**e.objectives, "kd": {"weight": 0.5}}
    assert first.train == e.train.model_copy(update={"optimizer": e.train.optimizer.model_copy(update={"lr": 1.0})})
    assert second.objectives == first.objectives | {"clmkd.class_guided": {"weight": 0.2}}
    assert second.train.clip_norm is None and second.train.optimizer.lr == 1.0
    assert third.objectives["ce"] == {"schedule": {"type": "cosine"}} and third.train.optimizer.weight_decay == 0.0
    assert e.objectives == BASE["objectives"] and e.train.clip_norm == 1.0  # nothing is changed in place


def test_none_is_as_it_was() -> None:
    without = experiment_from_dict(BASE)
    assert without == experiment() and digest_of(without) == digest_of(experiment())
    assert "phases" not in without.canonical()
    assert digest_of(without) != digest_of(experiment({"from_epoch": 3, "set": {KD: 0.5}}))


def test_they_survive_the_round_trip_and_sets(tmp_path: Any) -> None:
    e = experiment({"from_epoch": 3, "set": {KD: 0.5, "train.optimizer.lr": 0.02}})
    file = tmp_path / "x.yaml"
    file.write_text(to_yaml(e))
    assert load_experiment(file) == e
    changed = load_experiment(file, [f"phases.0.set.{KD}=0.7", "phases.0.from_epoch=2"])
    assert changed.phases[0].set == {KD: 0.7, "train.optimizer.lr": 0.02} and changed.phases[0].from_epoch == 2


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        (
            [{"from_epoch": 3, "set": {KD: 1}}, {"from_epoch": 3, "set": {KD: 2}}],
            "x: phases.1.from_epoch: phases must come in order, but 3 comes before 3",
        ),
        ([{"from_epoch": 0, "set": {KD: 1}}], "x: phases.0.from_epoch: 0 is out of range. Give a number of at least 1"),
        (
            [{"from_epoch": 8, "set": {KD: 1}}],
            "x: phases.0.from_epoch: a phase that begins after 8 epochs never holds in 8 epochs",
        ),
        ([{"from_epoch": 3}], "x: phases.0.set: is missing. Add set under phases.0"),
        ([{"from_epoch": 3, "set": {}}], "x: phases.0.set: changes nothing"),
        ([{"from_epoch": 3, "set": [1]}], "x: phases.0.set: wants a map of changes, but [1] stands there"),
        ([{"from_epoch": 3, "sets": {KD: 1}, "set": {KD: 1}}], "unknown key 'sets' (did you mean 'set'?)"),
        ([7], "x: phases.0: wants a map of keys, but 7 stands there. Write key: value lines; the keys are from_epoch"),
        (
            [{"from_epoch": 3, "set": {"train.optimizer.lr": "0.1"}}],
            'x: phases.0.set.train.optimizer.lr: wants a number, but "0.1" stands there',
        ),
        ([{"from_epoch": 3, "set": {"train.optimizer.lr": None}}], "lr: has no value (null)"),
        ([{"from_epoch": 3, "set": {"train.optimizer.lr": 0}}], "lr: 0 is out of range. Give a number above 0"),
        ([{"from_epoch": 3, "set": {"train.optimizer.lr": float("inf")}}], "lr: inf is not a finite number"),
        (
            [{"from_epoch": 3, "set": {"train.optimizer.weight_decay": -1}}],
            "decay: -1 is out of range. Give a number of at least 0",
        ),
        (
            [{"from_epoch": 3, "set": {"train.optimiser.lr": 1}}],
            "train.optimiser.lr is nothing that a phase changes (did you mean 'train.optimizer.lr'?). "
            "A phase may change objectives.NAME.PARAMETER, train.optimizer.lr, train.optimizer.weight_decay, "
            "train.clip_norm",
        ),
        ([{"from_epoch": 3, "set": {"train": {"clip_norm": 1}}}], "set.train: train is nothing that a phase changes"),
        ([{"from_epoch": 3, "set": {"data.views": 2}}], "data.views is nothing that a phase changes"),
        ([{"from_epoch": 3, "set": {"teacher.objectives.ce.weight": 2}}], "is nothing that a phase changes"),
        (
            [{"from_epoch": 3, "set": {KD: 1}}, {"from_epoch": 4, "set": {"objectives.kdd.weight": 2}}],
            "x: phases.1.set.objectives.kdd.weight: there is no objective 'kdd' (did you mean 'kd'?). "
            "The objectives are ce, kd, clmkd.class_guided",
        ),
        ([{"from_epoch": 3, "set": {"objectives.kd": {"weight": 2}}}], "objectives.kd: is a whole objective"),
        ([{"from_epoch": 3, "set": {"objectives.kd.type": "dkd"}}], "kd.type: a phase cannot put another method"),
        ([{"from_epoch": 3, "set": {"objectives.kd.weight.x": 2}}], "kd.weight is 1, so it holds no 'x'"),
        ([{"from_epoch": 3, "set": {"objectives.kd..weight": 2}}], "'objectives.kd..weight' is not a dotted path"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(phases: list[Any], said: str) -> None:
    assert said in refused(*phases)


def test_only_a_student_has_phases() -> None:
    said = refused({"from_epoch": 3, "set": {KD: 1}}, student=None, teacher={"model": "resnet8"})
    assert "phases: phases are a student's, and there is none" in said


def test_a_lineage_is_written_down_as_phases() -> None:
    lineage = [
        {"from_epoch": 0, "parameters": {"method": "kd", KD: 1.0, "train.optimizer.lr": 0.1}},
        {"from_epoch": 2, "parameters": {"method": "kd", KD: 1.2, "train.optimizer.lr": 0.1}},
        {"from_epoch": 4, "parameters": {"method": "kd", KD: 1.2, "train.optimizer.lr": 0.1}},  # nothing new
        {"from_epoch": 6, "parameters": {KD: 0.9}},
        {"from_epoch": 6, "parameters": {"train.optimizer.lr": 0.08}},  # once more, at the same border
    ]
    phases = phases_of(lineage)
    assert phases == [
        {"from_epoch": 2, "set": {KD: 1.2}},
        {"from_epoch": 6, "set": {KD: 0.9, "train.optimizer.lr": 0.08}},
    ]
    assert [phase.from_epoch for phase in experiment(*phases).phases] == [2, 6]
    assert phases_of(lineage[:1]) == []


@pytest.mark.parametrize(
    ("lineage", "said"),
    [
        ([], "a lineage of epochs [] is none"),
        ([{"from_epoch": 1, "parameters": {}}], "a lineage of epochs [1] is none"),
        ([{"from_epoch": e, "parameters": {}} for e in (0, 4, 2)], "a lineage of epochs [0, 4, 2] is none"),
        (
            [{"from_epoch": 0, "parameters": {}}, {"from_epoch": 2, "parameters": {"train.batch": 64}}],
            "train.batch is nothing that a phase changes",
        ),
    ],
)
def test_what_is_no_lineage(lineage: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        phases_of(lineage)
    assert said in str(error.value)
