from __future__ import annotations

from typing import Any

FORMS: list[dict[str, Any]] = [
    {"type": "mlkd.alignment", "multiplier": 1},
    {"type": "mlkd.alignment", "hidden": 5, "views": "first"},
    {"type": "mlkd.correlation"},
    {"type": "mlkd.correlation", "min_views": 2},
    {"type": "mlkd.correlation", "min_views": 1},
    {"type": "mlkd.supervised", "dim": 7},
    {"type": "mlkd"},
    {"type": "simclr", "dim": 7},
]
