from __future__ import annotations

from typing import Any

FORMS: list[dict[str, Any]] = [
    {"type": "intra_class", "delta": -1},
    {"type": "intra_class", "delta": -0.9, "cache": 0, "divide_by": "batch", "head": "linear", "dim": 7},
    {"type": "intra_class", "delta": -30, "margin": "logit", "cache": 2, "push": "anchors", "head": "mlp", "dim": 7},
    {"type": "intra_class", "delta": -1, "cache": 3, "max_age": 1},
]
