from __future__ import annotations

from typing import Any

FORMS: list[dict[str, Any]] = [
    {"type": "kd"},
    {"type": "kd", "standardise": True, "temperature": 2},
]
