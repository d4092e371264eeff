"""SimKD through the command: what is tested and exported is the student with the teacher's classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from kdray.models import load_exported
from tests.tiny import Lab

CHANGES: dict[str, Any] = {
    "objectives": {"ce": None, "kd": None, "simkd": {}},
    "train": {"epochs": 4, "optimizer": {"lr": 0.1}},
    "data": {"limit": 512, "test_limit": 256, "augment": []},
}


def student_of(record: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    (stage,) = [stage for stage in record["stages"] if stage["stage"] == "student"]
    folder = Path(stage["artifact"])
    return folder, json.loads((folder / "record.json").read_text())


def test_the_export_loads_and_has_the_accuracy_of_the_record(lab: Lab) -> None:
    folder, record = student_of(lab.done(changes=CHANGES))
    loaded, card = load_exported(str(folder / "model.json"))
    assert card["model"] == "composed" and card["test"] in (record["test"], record["test_best"])
    assert record["parameters"] == loaded.info.parameters == sum(p.numel() for p in loaded.parameters())
    teacher = next(folder.parent.glob("teacher-*")) / "model.safetensors"
    head = safetensors.torch.load_file(teacher)["fc.weight"]
    assert torch.equal(loaded.classifier.weight, head)

    weights = str(folder / "model.safetensors")
    # The same file as a given teacher goes through the same evaluation, and through no code of the method.
    changes = {
        "teacher": {"model": "composed", "params": {"width": None, **card["params"]}, "weights": weights},
        "student": None,
        "objectives": None,
    }
    again = lab.done(changes={**CHANGES, **changes})
    (stage,) = again["stages"]
    tested = json.loads((Path(stage["artifact"]) / "record.json").read_text())["test"]
    assert tested == card["test"] and tested["top1"] > 0.2  # ten classes: a tenth is chance


def test_the_average_of_the_weights_is_exported_and_the_second_run_reuses_it(lab: Lab) -> None:
    changes = {**CHANGES, "train": {"epochs": 2, "ema": 0.9}}
    folder, record = student_of(lab.done(changes=changes))
    loaded, card = load_exported(str(folder / "model.json"))
    assert card["test"] in (record["test"], record["test_best"]) and loaded.info.name == "composed"
    again = lab.run(changes=changes)
    assert again.code == 0 and "student distilled: reused" in again.out


def test_what_cannot_be_deployed_is_refused_before_anything_runs(lab: Lab) -> None:
    changes = {"objectives": {"ce": None, "kd": None, "simkd": {}, "again": {"type": "simkd"}}}
    assert "objectives.simkd: " in (said := lab.run(changes=changes).error()) and "both change the network" in said
    said = lab.run(changes={**CHANGES, "teacher": {"model": "mobilenetv2"}}).error()
    assert "objectives.simkd: the classifier of mobilenetv2 reads" in said
    assert lab.artifacts() == []
