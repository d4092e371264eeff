"""Numbers of a record as people read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def percent(result: dict[str, float] | None) -> str:
    """Top-1 accuracy in percent, a dash where nothing was evaluated; neighbours' accuracy is called by its name."""
    if result and "top1" not in result:
        return f"kNN {100 * result['knn']:.2f} %"
    return f"{100 * result['top1']:.2f} %" if result else "-"


def duration(seconds: float) -> str:
    """Seconds as 12.3s, 4m05s or 3h07m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{seconds:.1f}s"


def phase_text(from_epoch: int, changes: Mapping[str, Any]) -> str:
    """A phase of a training: `from epoch 4 on: objectives.kd.weight 0.5`, epochs counted from 1 as in a history."""
    listed = ", ".join(f"{path} {json.dumps(value)}" for path, value in changes.items())
    return f"from epoch {from_epoch + 1} on: {listed}"
