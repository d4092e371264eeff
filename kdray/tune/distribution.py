"""How a parameter's values lie between each other: read from the text of its space, or from the values seen."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

RANGE = re.compile(r"\s*(uniform|loguniform|int|logint)\s*\(\s*([^,()]+),\s*([^,()]+)(?:,[^()]*)?\)\s*")
FEW = 6  # numbers of no known space that are choices, when no more than these were seen


@dataclass(frozen=True)
class Span:
    """A range of numbers, both ends included; `log` where distances are ratios."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where `value` lies on the scale: its logarithm on a log one."""
        return math.log(value) if self.log else float(value)


@dataclass(frozen=True)
class Choices:
    """Distinct values without distances, as JSON texts: by number, then by text."""

    texts: tuple[str, ...]


def distribution(text: str | None, seen: Iterable[Any]) -> Span | Choices:
    """The scale of a parameter whose space is written as `text`, wide enough for the values `seen`.

    What is no range of numbers is choices, and of those the ones that were seen.
    """
    values = list(seen)
    numbers = [value for value in values if is_number(value)]
    written = RANGE.fullmatch(text) if text else None
    if written and len(numbers) == len(values):
        kind, low, high = written.groups()
        ends = [*numbers, float(low), float(high)]
        log = kind.startswith("log") and min(ends) > 0
        return Span(min(ends), max(ends), log)
    if not text and len(numbers) == len(values) and len(set(numbers)) > FEW:
        return Span(min(numbers), max(numbers))
    return Choices(tuple(sorted({as_text(value) for value in values}, key=_order)))


def as_text(value: Any) -> str:
    """A value as JSON, equal for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number, which a truth value is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _order(text: str) -> tuple[float, str]:
    value = json.loads(text)
    return (float(value) if is_number(value) else math.inf, text)
