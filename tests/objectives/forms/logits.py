from __future__ import annotations

from typing import Any

FORMS: list[dict[str, Any]] = [
    {"type": "kd"},
    {"type": "kd", "standardise": True, "temperature": 2},
    {"type": "dkd"},
    {"type": "dkd", "standardise": True, "alpha": 0.5, "beta": 2, "temperature": 2},
    {"type": "nkd"},
    {"type": "nkd", "standardise": True, "gamma": 3.5, "temperature": 3},
    {"type": "dist"},
    {"type": "dist", "standardise": True, "beta": 0.5, "gamma": 2, "temperature": 1},
    {"type": "ckd"},
    {"type": "ckd", "standardise": True, "temperature": 0.1, "weight": 1},
    {"type": "ctkd"},
    {"type": "ctkd", "standardise": True, "instance": True, "hidden": 4},
    {"type": "mld"},
    {"type": "mld", "standardise": True, "select": "mask", "strong": "all", "temperatures": [1, 4]},
]
DETACHED = [form for form in FORMS if form.get("instance")]
