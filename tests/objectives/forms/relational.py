from __future__ import annotations

from typing import Any

FORMS: list[dict[str, Any]] = [
    {"type": "sp"},
    {"type": "rkd"},
    {"type": "rkd", "distance": 0},
    {"type": "rkd", "angle": 0},
    {"type": "pkt"},
    {"type": "cc", "dim": 7},
]
