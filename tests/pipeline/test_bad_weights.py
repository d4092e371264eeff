"""Weights that do not fit end in one line that names the key and the file."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from kdray.experiment import ModelSpec
from kdray.models.zoo import build
from tests.pipeline.refused import refused
from tests.tiny import Lab

pytestmark = pytest.mark.usefixtures("nothing_runs")


def weights_of(model: str, classes: int = 10, width: float = 0.25) -> dict[str, torch.Tensor]:
    return build(ModelSpec(model=model, params={"width": width}), classes, 32).backbone.state_dict()


def test_weights_that_are_none(lab: Lab) -> None:
    (lab.folder / "t.safetensors").write_bytes(b"garbage" * 99)
    said = refused(lab, {"teacher": {"weights": "t.safetensors"}})
    assert "teacher.weights: /" in said and "is neither safetensors nor a torch checkpoint" in said


def test_weights_that_are_cut_off(lab: Lab) -> None:
    path = lab.folder / "t.safetensors"
    save_file(weights_of("resnet8"), path)
    path.write_bytes(path.read_bytes()[:-1000])
    said = refused(lab, {"teacher": {"weights": "t.safetensors"}})
    assert f"teacher.weights: {path} is damaged or cut short" in said


def test_weights_of_another_network_are_told_key_by_key(lab: Lab) -> None:
    save_file(weights_of("resnet14"), lab.folder / "t.safetensors")
    said = refused(lab, {"teacher": {"weights": "t.safetensors"}})
    assert "teacher.weights: /" in said and "does not fit resnet8: unexpected" in said
    assert "layer1.1.bn1.weight" in said and "resnet8 has 56 keys, the file 92" in said


def test_weights_of_another_number_of_classes(lab: Lab) -> None:
    save_file(weights_of("resnet8", classes=7), lab.folder / "t.safetensors")
    said = refused(lab, {"teacher": {"weights": "t.safetensors"}})
    assert "the file has 7 classes, the data 10" in said and "teacher.weights: " in said


def test_weights_of_the_student_are_checked_too(lab: Lab) -> None:
    save_file(weights_of("resnet8", width=0.5), lab.folder / "s.safetensors")
    said = refused(lab, {"student": {"weights": "s.safetensors"}})
    assert "student.weights: " in said and "of another shape" in said
