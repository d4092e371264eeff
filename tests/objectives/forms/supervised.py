from __future__ import annotations

from typing import Any

FORMS: list[dict[str, Any]] = [{"type": "ce", "label_smoothing": 0.1}]
