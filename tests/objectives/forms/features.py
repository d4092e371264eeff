from __future__ import annotations

from typing import Any

FORMS: list[dict[str, Any]] = [
    {"type": "fitnet"},
    {"type": "fitnet", "stage": [1, 2]},
    {"type": "fitnet", "stage": [2, 1], "relu": False},
    {"type": "at"},
    {"type": "at", "p": 1, "stages": [1, [2, 1]]},
    {"type": "review", "hidden": 4, "schedule": "constant", "weight": 1},
    {"type": "review", "hidden": 3, "student": "preact", "teacher": "stages", "stages": [[2, 1], [3, 3]]},
    {"type": "vid", "hidden": 6},
    {"type": "vid", "variance": 0.5, "stages": [[1, 2], -1]},
    {"type": "nst"},
    {"type": "nst", "kernel": "linear", "stages": [[2, 1]]},
    {"type": "ofd"},
    {"type": "ofd", "stages": [[2, 1], [1, 2]], "margin_batches": 1, "decay": 1, "weight": 0.01},
    {"type": "semckd", "quantiles": 5, "dim": 6},
    {"type": "semckd", "attend": "pooled", "dim": 6, "hidden": 5, "stages": [1, [3, 2]]},
]
