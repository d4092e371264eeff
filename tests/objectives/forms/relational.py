from __future__ import annotations

from typing import Any

FORMS: list[dict[str, Any]] = [
    {"type": "sp"},
    {"type": "rkd"},
    {"type": "rkd", "distance": 0},
    {"type": "rkd", "angle": 0},
    {"type": "pkt"},
    {"type": "cc", "dim": 7},
    {"type": "srd"},
    {"type": "srd", "exponent": 2},
    {"type": "srrl"},
    {"type": "srrl", "connect": "map"},
    {"type": "simkd"},
    {"type": "simkd", "factor": 4},
]
