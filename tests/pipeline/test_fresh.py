"""`--fresh` starts beside what is there, and the plain command goes on with what the newest start of its run began."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdray.train.worker import StageWorker
from tests.tiny import Lab, tree_of


def folders(record: dict[str, Any]) -> dict[str, str]:
    return {stage["stage"]: Path(stage["artifact"]).name for stage in record["stages"]}


def number(name: str) -> int:
    return int(name.partition(".")[2] or 1)


def kill_before(monkeypatch: pytest.MonkeyPatch, stage: str) -> pytest.MonkeyPatch:
    """Make the command die where `stage` would begin, before it leaves anything."""
    run = StageWorker.run

    def killed(self: StageWorker) -> dict[str, Any]:
        if self.stage.name == stage:
            raise KeyboardInterrupt
        return run(self)

    monkeypatch.setattr(StageWorker, "run", killed)
    return monkeypatch


def test_fresh_makes_new_generations_and_deletes_nothing(lab: Lab) -> None:
    first = lab.done()
    before = tree_of(lab.store)
    second = lab.done("--fresh")
    assert {name: number(folder) for name, folder in folders(first).items()} == {"teacher": 1, "student": 1}
    assert folders(second)["teacher"] == folders(first)["teacher"] + ".2"
    # The student of a fresh teacher is another artifact: its digest has the teacher's folder in it.
    assert folders(second)["student"] != folders(first)["student"]
    assert second["run_id"] == first["run_id"] + ".2"
    assert before.items() <= tree_of(lab.store).items()
    third = lab.done("--fresh")
    assert folders(third)["teacher"] == folders(first)["teacher"] + ".3"
    assert lab.done() == third  # the plain command means the newest start


def test_a_fresh_run_gives_the_same_weights(lab: Lab) -> None:
    first, second = lab.done(), lab.done("--fresh")
    for one, other in zip(first["stages"], second["stages"], strict=True):
        weights = [(Path(stage["artifact"]) / "model.safetensors").read_bytes() for stage in (one, other)]
        assert weights[0] == weights[1]
        assert one["digest"] == other["digest"] or one["stage"] == "student"


@pytest.mark.parametrize("stage, reused", [("teacher", [False, False]), ("student", [True, False])])
def test_a_killed_fresh_run_is_what_goes_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, stage: str, reused: list[bool]
) -> None:
    first = lab.done()
    with monkeypatch.context() as patch:
        kill_before(patch, stage)
        lab.run("--fresh").error(130)
    if stage == "teacher":
        assert folders(first)["teacher"] + ".2" not in lab.artifacts()  # nothing tells of it but the run's record
    again = lab.done()
    assert folders(again)["teacher"] == folders(first)["teacher"] + ".2"
    assert [one["reused"] for one in again["stages"]] == reused
    assert again["run_id"] == first["run_id"] + ".2"


def test_a_dry_run_of_a_fresh_start_is_not_remembered(lab: Lab) -> None:
    first = lab.done()
    before = tree_of(lab.folder)
    done = lab.run("--fresh", "--dry-run")
    assert f"artifacts/{folders(first)['teacher']}.2" in done.out and "[to do]" in done.out
    assert tree_of(lab.folder) == before
    assert lab.done() == first


def test_another_experiment_keeps_its_teacher(lab: Lab) -> None:
    other = {"objectives": {"kd": {"temperature": 2}}}
    lab.done()
    first = lab.done(changes=other)
    lab.done("--fresh")
    before = tree_of(lab.store)
    assert lab.done(changes=other) == first
    assert tree_of(lab.store) == before
    # One that has never run takes the newest that is finished.
    third = lab.done(changes={"objectives": {"kd": {"temperature": 3}}})
    assert number(folders(third)["teacher"]) == 2 and third["stages"][0]["reused"]


def test_an_unfinished_fresh_teacher_is_nobody_elses(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.done()
    with monkeypatch.context() as patch:
        patch.setattr("kdray.train.loop.Loop._finish_epoch", lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
        lab.run("--fresh", changes={"train": {"checkpoint": {"every_steps": 1}}}).error(130)
    (begun,) = [name for name in lab.artifacts() if name.endswith(".2")]
    assert not (lab.store / "artifacts" / begun / "record.json").exists()
    other = lab.done(changes={"objectives": {"kd": {"temperature": 2}}})
    assert number(folders(other)["teacher"]) == 1 and other["stages"][0]["reused"]


def test_fresh_with_an_id_of_its_own(lab: Lab) -> None:
    lab.done()
    mine = lab.done("--fresh", "--run-id", "mine")
    assert number(folders(mine)["teacher"]) == 2
    assert lab.done("--run-id", "mine") == mine


def test_the_record_names_its_artifacts_before_the_first_begins(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_before(patch, "teacher")
        lab.run().error(130)
    (run,) = (lab.store / "runs").iterdir()
    record = json.loads((run / "record.json").read_text())
    assert list(record["planned"]) == ["teacher", "student"] and record["stages"] == []
    assert record["status"] == "interrupted"
    assert {f"artifacts/{name}" for name in folders(lab.done()).values()} == set(record["planned"].values())
