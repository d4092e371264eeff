"""What is done is not done again, by whoever asks for it; what is not whole is made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import Lab, tree_of


def test_a_teacher_is_trained_once_for_every_student(lab: Lab, took: Callable[[], list[str]]) -> None:
    lab.done()
    assert took() == ["teacher", "student"]
    for changes in (
        {"objectives": {"kd": {"temperature": 2}}},
        {"student": {"params": {"width": 0.25}}},
        {"name": "another_experiment", "objectives": {"ce": None}},
    ):
        record = lab.done(changes=changes)
        assert took() == ["student"], changes
        assert [stage["reused"] for stage in record["stages"]] == [True, False]
    lab.done(changes={"student": None})  # the teacher alone is the same teacher
    assert took() == []
    assert len([name for name in lab.artifacts() if name.startswith("teacher-")]) == 1


def test_a_changed_teacher_makes_its_student_anew(lab: Lab, took: Callable[[], list[str]]) -> None:
    lab.done(changes={"student": {"alone": True}})
    assert took() == ["teacher", "student_alone", "student"]
    lab.done(changes={"student": {"alone": True}, "teacher": {"objectives": {"ce": {"label_smoothing": 0.1}}}})
    assert took() == ["teacher", "student"]


def test_a_reused_stage_is_reported_with_its_own_numbers(lab: Lab) -> None:
    first = lab.done()["stages"][0]
    second = lab.done(changes={"objectives": {"kd": {"temperature": 2}}})["stages"][0]
    assert second == first | {"reused": True}


def test_an_artifact_without_its_record_is_made_again(lab: Lab, took: Callable[[], list[str]]) -> None:
    first = lab.done()
    took()
    (Path(first["stages"][1]["artifact"]) / "record.json").unlink()
    again = lab.done()
    assert took() == ["student"]
    for key in ("digest", "history", "test", "test_best"):
        stages = [record["stages"][1][key] for record in (first, again)]
        if key == "history":
            stages = [[{k: v for k, v in row.items() if k.startswith(("loss", "val"))} for row in s] for s in stages]
        assert stages[0] == stages[1], key


def test_a_lost_run_folder_loses_no_work(lab: Lab, took: Callable[[], list[str]]) -> None:
    first = lab.done()
    took()
    shutil.rmtree(lab.store / "runs")
    again = lab.done()
    assert took() == [] and all(stage["reused"] for stage in again["stages"])
    assert again["planned"] == first["planned"]


def test_the_record_says_where_each_stage_ran(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.done()
    monkeypatch.setattr("kdray.pipeline.record.cpu_model", lambda: "another machine")
    record = lab.done(changes={"objectives": {"kd": {"temperature": 2}}})
    assert record["hardware"]["cpu"] == "another machine"
    teacher, student = record["stages"]
    assert student["hardware"]["cpu"] == "another machine" != teacher["hardware"]["cpu"]
    assert teacher["versions"]["torch"] == student["versions"]["torch"]


def test_a_damaged_record_is_named(lab: Lab) -> None:
    path = Path(lab.done()["stages"][0]["artifact"]) / "record.json"
    path.write_text("{")
    said = lab.run(changes={"objectives": {"kd": {"temperature": 2}}}).error()
    assert str(path) in said and "is not JSON" in said


def test_a_stopped_stage_goes_on_and_the_finished_one_is_kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdray.train.loop import Loop

    changes = {"train": {"checkpoint": {"every_steps": 1}}}
    finish = Loop._finish_epoch

    def power_cut(self: Loop) -> None:
        if self.job.teacher is not None:
            self.job.checkpoints.wait()  # type: ignore[union-attr]
            raise KeyboardInterrupt
        finish(self)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_finish_epoch", power_cut)
        lab.run(changes=changes).error(130)
    before = tree_of(lab.store / "artifacts")
    plan = lab.run("--dry-run", changes=changes).out
    assert "[done]" in plan and "[goes on from step-000000002.pt]" in plan
    record = lab.done(changes=changes)
    assert [stage["reused"] for stage in record["stages"]] == [True, False]
    assert record["stages"][1]["resumed_from"] == 2
    teacher = [name for name in before if name.startswith("teacher-")]
    assert {name: before[name] for name in teacher}.items() <= tree_of(lab.store / "artifacts").items()


def test_metrics_of_every_epoch_and_the_final_numbers_are_in_the_record(lab: Lab) -> None:
    record = lab.done(changes={"train": {"epochs": 2}})
    text = Path(record["uri"]).read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) == record
    for stage in record["stages"]:
        assert [row["epoch"] for row in stage["history"]] == [1, 2]
        for row in stage["history"]:
            assert {"loss/total", "val/top1", "images_per_s", "data_wait", "seconds", "lr"} <= row.keys()
        assert {"top1", "top5", "nll", "images", "bad_images"} <= stage["test"].keys()
        assert stage["test"]["images"] == 64 and stage["test_best"]["images"] == 64
        assert stage["epochs"] == 2 and stage["best_epoch"] in (1, 2) and stage["steps"] == 4
        assert stage["seed"] == record["seed"] == 0
