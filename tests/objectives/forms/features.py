from __future__ import annotations

from typing import Any

FORMS: list[dict[str, Any]] = [
    {"type": "fitnet"},
    {"type": "fitnet", "stage": [1, 2]},
    {"type": "fitnet", "stage": [2, 1], "relu": False},
    {"type": "at"},
    {"type": "at", "p": 1, "stages": [1, [2, 1]]},
]
