"""Phases through the command: which stage they change, what is refused before the run, and what is told of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from kdray.experiment import load_experiment
from kdray.pipeline.plan import Plan, make_plan
from kdray.pipeline.smoke import smoke
from kdray.train.worker import StageWorker
from tests.pipeline.test_ended_early import Ended, Ending
from tests.tiny import Lab

KD, LR = "objectives.kd.weight", "train.optimizer.lr"
EPOCHS: dict[str, Any] = {"train": {"epochs": 3, "optimizer": {"lr": 0.05}}}
PHASES = [{"from_epoch": 1, "set": {KD: 0.5, LR: 0.02}}, {"from_epoch": 2, "set": {KD: 0.25}}]


def phased(*phases: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return EPOCHS | {"phases": list(phases)} | changes


def plan_of(lab: Lab, changes: dict[str, Any]) -> Plan:
    return make_plan(load_experiment(lab.write(changes)), dry=True)


def digests(lab: Lab, changes: dict[str, Any]) -> dict[str, str]:
    return {stage.name: stage.digest for stage, _ in plan_of(lab, changes).stages}


def model_of(stage: dict[str, Any]) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(Path(stage["artifact"]) / "last.safetensors")


def test_they_are_the_students_alone(lab: Lab) -> None:
    alone: dict[str, Any] = {"student": {"alone": True}}
    before = digests(lab, EPOCHS | alone)
    assert digests(lab, phased(**alone)) == before
    after = digests(lab, phased(*PHASES, **alone))
    assert {name for name in before if before[name] != after[name]} == {"student"}
    # The same meaning is the same digest: defaults, order and spelling.
    other = [{"from_epoch": 1, "set": {LR: 0.02, 'objectives."kd".weight': 0.5, "objectives.kd.schedule": "constant"}}]
    assert digests(lab, phased(*other, PHASES[1], **alone)) == after
    for change in ({"from_epoch": 2}, {"set": {KD: 0.6, LR: 0.02}}, {"set": {KD: 0.5, LR: 0.03}}):
        assert digests(lab, phased({**PHASES[0], **change}, **alone))["student"] != after["student"]


def test_a_run_tells_of_its_phases(lab: Lab) -> None:
    done = lab.run(changes=phased(*PHASES))
    assert done.code == 0, done.out + done.err
    lines = [f"from epoch 2 on: {KD} 0.5, {LR} 0.02", f"from epoch 3 on: {KD} 0.25"]
    for line in lines:
        assert done.out.count(line) == 2  # in the plan, and below the table
        assert f"student distilled: {line}" in done.out
    teacher, student = lab.record(done)["stages"]
    assert student["phases"] == PHASES and "phases" not in teacher
    assert [row["lr"] for row in student["history"]] == [0.05, 0.02, 0.02]
    for row, weight in zip(student["history"], (1.0, 0.5, 0.25), strict=True):
        assert row["loss/total"] == pytest.approx(row["loss/ce"] + weight * row["loss/kd"], rel=1e-4)
    assert [phase["from_epoch"] for phase in student["made_of"]["phases"]] == [1, 2]
    assert "phases:" in lab.run("--print-config", changes=phased(*PHASES)).out
    again = lab.run(changes=phased(*PHASES))
    assert again.code == 0 and "student distilled: reused" in again.out


def test_phases_that_change_nothing_make_the_same_weights(lab: Lab) -> None:
    idle = [{"from_epoch": 1, "set": {KD: 1}}, {"from_epoch": 2, "set": {LR: 0.05}}]
    one, other = (lab.done(changes=changes)["stages"][1] for changes in (EPOCHS, phased(*idle)))
    assert one["artifact"] != other["artifact"]
    before, after = model_of(one), model_of(other)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_a_trial_goes_on_from_the_state_of_another(lab: Lab) -> None:
    """As population based training does: ended at the border of an epoch, its checkpoint copied, other phases."""
    saving = {"train": {**EPOCHS["train"], "checkpoint": {"every_epochs": 1}}}
    explored = [PHASES[0], {"from_epoch": 2, "set": {KD: 0.9, LR: 0.01}}]
    lab.done(changes=phased() | saving | {"student": None})  # the teacher
    spec = plan_of(lab, phased(*PHASES) | saving).stages[1][0].spec
    with pytest.raises(Ended):
        StageWorker(spec, Ending(2)).run()
    source = Path(spec.store, spec.folder)
    assert (source / "checkpoints/step-000000004.pt").exists()
    target = plan_of(lab, phased(*explored) | saving).stages[1][0].spec
    shutil.copytree(source / "checkpoints", Path(target.store, target.folder, "checkpoints"))
    exploited = lab.done(changes=phased(*explored) | saving)["stages"][1]
    assert exploited["resumed_from"] == 4
    whole = lab.done("--fresh", changes=phased(*explored) | saving)["stages"][1]
    assert whole["resumed_from"] == 0 and whole["artifact"] != exploited["artifact"]
    one, other = model_of(exploited), model_of(whole)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert json.loads((Path(exploited["artifact"]) / "record.json").read_text())["history"][-1]["lr"] == 0.01


@pytest.mark.parametrize(
    ("objectives", "phases", "said"),
    [
        (
            {"clmkd.class_guided": {"mode": "memory", "dim": 8}},
            [{"from_epoch": 1, "set": {KD: 2, "objectives.clmkd.class_guided.dim": 16}}],
            "phases.0.set.objectives.clmkd.class_guided.dim: it changes the state ",
        ),
        (
            {"fitnet": {}},
            [{"from_epoch": 1, "set": {KD: 2}}, {"from_epoch": 2, "set": {LR: 0.1, "objectives.fitnet.weight": 0}}],
            "phases.1.set.objectives.fitnet.weight: it leaves state without use",
        ),
        (
            {"fitnet": {"weight": 0}},
            [{"from_epoch": 1, "set": {KD: 2, "objectives.fitnet.weight": 1}}],
            "phases.0.set.objectives.fitnet.weight: it needs state that is not there",
        ),
        (
            {},
            [{"from_epoch": 1, "set": {"objectives.kd.temprature": 2}}],
            "phases.0.set.objectives.kd.temprature: kd has no such parameter (did you mean 'temperature'?)",
        ),
        (
            {},
            [{"from_epoch": 1, "set": {LR: 1, KD: -1}}],
            f"phases.0.set.{KD}: -1 should be greater than",
        ),
        (
            {},
            [{"from_epoch": 1, "set": {LR: 1, KD: 0, "objectives.ce.weight": 0}}],
            f"phases.0.set.{KD}: every objective has weight 0",
        ),
    ],
)
def test_what_cannot_go_on_is_refused_before_the_run(
    lab: Lab, nothing_runs: None, objectives: dict[str, Any], phases: list[dict[str, Any]], said: str
) -> None:
    error = lab.run(changes=phased(*phases, objectives=objectives)).error()
    assert said in error and error.startswith(f"{lab.folder}/tiny.yaml:"), error


def test_a_later_phase_may_be_what_needs_the_teacher(lab: Lab) -> None:
    changes = phased({"from_epoch": 2, "set": {KD: 0.5}}, objectives={"kd": {"weight": 0}})
    plan = plan_of(lab, changes)
    assert plan.stages[1][0].spec.teacher is not None
    rows = lab.done(changes=changes)["stages"][1]["history"]
    assert ["loss/kd" in row for row in rows] == [False, False, True]
    error = lab.run("--dry-run", changes=changes | {"teacher": None}).error()
    assert f"phases.0.set.{KD}: this objective needs a teacher" in error
    variant = {"variants": {"late": {"phases": changes["phases"]}}, "objectives": {"kd": {"weight": 0}}}
    assert "late: teacher, student.late" in lab.run("--dry-run", changes=EPOCHS | variant).out


def test_a_smoke_run_has_one_phase(lab: Lab) -> None:
    long = {"train": {"epochs": 90, "optimizer": {"lr": 0.05}}}
    phases = [{"from_epoch": 30, "set": {KD: 0.5, "train.clip_norm": 9}}, {"from_epoch": 60, "set": {KD: 0.25, LR: 1}}]
    made = smoke(load_experiment(lab.write(phased(*phases) | long)))
    (only,) = made.experiment.phases
    assert (only.from_epoch, only.set) == (1, {KD: 0.25, LR: 1.0})
    assert "phases: the changes of all of them come after the first epoch" in made.notes
    assert smoke(load_experiment(lab.write(EPOCHS))).experiment.phases == []
