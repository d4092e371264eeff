from __future__ import annotations

from typing import Any

FORMS: list[dict[str, Any]] = [
    {"type": "mcld.instance"},
    {"type": "mcld.instance", "mask": "none", "queue": 12},
    {"type": "mcld.instance", "mask": "multi_positive", "queue": 5, "inputs": "standardised"},
    {"type": "mcld.sample"},
    {"type": "mcld.sample", "mask": "multi_positive", "inputs": "probabilities", "temperature": 0.5},
    {"type": "mcld.sample", "reading": "multi_positive", "queue": 12},
    {"type": "mcld.sample", "reading": "relation", "temperature": 0.5},
    {"type": "mcld.sample", "reading": "relation", "mask": "exclude", "queue": 12},
    {"type": "mcld.category"},
    {"type": "mcld.category", "centre": True, "classes": "present"},
    {"type": "mcld"},
]
