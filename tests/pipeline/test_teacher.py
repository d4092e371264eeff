"""An experiment with a teacher alone, and the floor that a teacher has to reach before a student is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from kdray.data.digits import digit_samples
from kdray.data.writer import write_shards
from kdray.experiment import ModelSpec
from kdray.models.zoo import build
from tests.tiny import Lab, command

TEACHER_ONLY: dict[str, Any] = {"student": None, "objectives": {"ce": None, "kd": None}}


@pytest.fixture
def given(lab: Lab) -> Path:
    """Weights of TINY's teacher that nobody trained."""
    path = lab.folder / "given.safetensors"
    save_file(build(ModelSpec(model="resnet8", params={"width": 0.25}), 10, 32).backbone.state_dict(), path)
    return path


def test_a_teacher_without_weights_is_trained(lab: Lab) -> None:
    record = lab.done(changes=TEACHER_ONLY)
    (stage,) = record["stages"]
    assert (stage["stage"], stage["epochs"]) == ("teacher", 1)
    assert (Path(stage["artifact"]) / "model.safetensors").exists()


def test_a_teacher_with_weights_is_only_evaluated(lab: Lab, given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdray.train.loop.Loop.run", lambda self: pytest.fail("it was trained"))
    done = lab.run(changes=TEACHER_ONLY | {"teacher": {"weights": str(given)}})
    record = lab.record(done)
    (stage,) = record["stages"]
    assert stage["epochs"] == 0 and stage["test"]["images"] == 64
    assert sorted(path.name for path in Path(stage["artifact"]).iterdir()) == ["record.json"]
    cells = next(line for line in done.out.splitlines() if "teacher: resnet8" in line and "│" in line).split("│")
    assert [cell.strip() for cell in cells[5:8]] == ["-", "-", "-"]  # neither epochs nor speed


def test_a_teacher_needs_no_train_section_to_be_evaluated(lab: Lab, given: Path) -> None:
    path = lab.write(TEACHER_ONLY | {"teacher": {"weights": str(given)}, "train": None})
    assert "batch" not in path.read_text()
    assert command(path).code == 0


@pytest.mark.parametrize("trained", [True, False])
def test_a_teacher_below_its_floor_stops_the_run(
    lab: Lab, given: Path, monkeypatch: pytest.MonkeyPatch, trained: bool
) -> None:
    teacher = {"min_accuracy": 0.99} | ({} if trained else {"weights": str(given)})
    done = lab.run(changes={"teacher": teacher})
    said = done.error(1)
    assert f"{lab.folder / 'tiny.yaml'}:" in said
    assert "teacher.min_accuracy: the teacher reaches 0." in said and "below its floor of 0.9900" in said
    assert not [name for name in lab.artifacts() if name.startswith("student")]
    # It is judged again when nothing is to be trained, and lowering the floor goes on from there.
    assert lab.run(changes={"teacher": teacher}).error(1) == said
    record = lab.done(changes={"teacher": teacher | {"min_accuracy": 0.0}})
    assert [stage["reused"] for stage in record["stages"]] == [True, False]
    # The finished run is held against a floor that came later.
    assert lab.run(changes={"teacher": teacher}).error(1) == said


def test_a_floor_without_a_test_set_is_refused(lab: Lab, given: Path) -> None:
    write_shards(list(digit_samples("train"))[:80], str(lab.folder / "train"))
    data = {"source": None, "root": None, "train": str(lab.folder / "train"), "validation": 0}
    for teacher in ({}, {"weights": str(given)}):
        said = lab.run(changes={"data": data, "teacher": teacher | {"min_accuracy": 0.5}}).error()
        assert "teacher.min_accuracy: there is no test set to measure the teacher on" in said
    assert not lab.store.exists()


def test_a_teacher_alone_without_a_test_set_has_nothing_to_show(lab: Lab, given: Path) -> None:
    write_shards(list(digit_samples("train"))[:80], str(lab.folder / "train"))
    data = {"source": None, "root": None, "train": str(lab.folder / "train"), "validation": 0}
    said = lab.run(changes=TEACHER_ONLY | {"data": data, "teacher": {"weights": str(given)}}).error()
    assert "data.test: there is nothing to evaluate the teacher on. Give the URI of a test set's shards" in said


def test_without_a_test_set_there_are_no_test_numbers(lab: Lab) -> None:
    write_shards(list(digit_samples("train"))[:80], str(lab.folder / "train"))
    data = {"source": None, "root": None, "train": str(lab.folder / "train"), "validation": 0.2}
    record = lab.done(changes={"data": data})
    for stage in record["stages"]:
        assert stage["test"] is None and stage["test_best"] is None
        assert stage["history"][-1]["val/top1"] >= 0
