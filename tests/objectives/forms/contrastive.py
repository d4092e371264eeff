from __future__ import annotations

from typing import Any

FORMS: list[dict[str, Any]] = [
    {"type": "crd", "dim": 7, "bank_samples": 6},
    {"type": "crd", "dim": 7, "bank_samples": 6, "negatives": "all"},
    {"type": "supcon", "dim": 7},
    {"type": "supcon", "dim": 7, "pairs": "cross", "head": "linear"},
    {"type": "supcon", "dim": 7, "with_teacher": False},
    {"type": "crcd", "dim": 7, "bank_samples": 6, "anchors": 3},
    {"type": "crcd", "dim": 7, "bank_samples": 6, "anchors": "batch", "negatives": "all", "source": "feature"},
    {"type": "crd", "dim": 7, "bank_samples": 6, "bank": "sharded"},
    {"type": "crcd", "dim": 7, "bank_samples": 6, "anchors": 3, "bank": "sharded"},
    {"type": "sskd", "head_epochs": 0.25},
    {"type": "sskd", "head_epochs": 0, "transfer_keep": 0.5, "similarity_keep": 0.5},
]
