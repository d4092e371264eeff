"""A record of a matrix as a run leaves it, of given accuracies."""

from __future__ import annotations

from typing import Any


def stage(name: str, top1: float, seed: int = 0, **values: Any) -> dict[str, Any]:
    """A trained stage: `top1` on test in percent for the last epoch, one more for the best."""
    return {
        "stage": name,
        "title": name,
        "model": "resnet8",
        "seed": seed,
        "artifact": f"runs/artifacts/{name}",
        "reused": False,
        "epochs": 240,
        "best_epoch": 230 + seed,
        "history": [{"epoch": 230 + seed, "val/top1": top1 / 100 + 0.02}, {"epoch": 240, "val/top1": 0.1}],
        "test": {"top1": top1 / 100},
        "test_best": {"top1": top1 / 100 + 0.01},
        "images_per_s": 100.0,
        "data_wait": 0.0,
        "wall_s": 50.0,
        "world_size": 2,
        "device": "cpu",
        "made_of": {
            "train": {"epochs": 240, "batch": 64, "optimizer": {"lr": 0.05}},
            "data": {},
            "objectives": {"ce": {}},
        },
    } | values


def record_of(numbers: dict[tuple[str, str], list[float | None]], **matrix: Any) -> dict[str, Any]:
    """The record of methods x pairs with a number for each seed; None is a cell that is not done."""
    cells: dict[str, dict[str, Any]] = {}
    variants: dict[str, Any] = {}
    stages = [stage("teacher", 72.0, wall_s=300.0)]
    for (method, pair), values in numbers.items():
        for seed, value in enumerate(values):
            name = f"{method}.{pair}.seed{seed}"
            cells[name] = {"method": method, "pair": pair, "seed": seed}
            variants[name] = {"stages": {"teacher": "teacher", "student": f"student.{name}"}, "seed": seed}
            if value is not None:
                stages.append(stage(f"student.{name}", value, seed))
    return {
        "run_id": "m-0011",
        "name": "m",
        "uri": "runs/runs/m-0011/record.json",
        "status": "done",
        "seed": 0,
        "wall_s": 1.0,
        "versions": {"kdray": "0.1.0", "commit": "abc", "torch": "2.7"},
        "data": {"train": {}, "validation": {}, "test": {}},
        "variants": variants,
        "matrix": {"cells": cells} | matrix,
        "stages": stages,
    }
