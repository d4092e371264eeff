"""Trials of a search in words: their names, values and parameters as people read them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

ENDED = ("done", "stopped", "failed")
SHARES = ("val/top1", "val/top5", "val/knn")  # fractions of 1 that are shown in percent


def short_names(names: Iterable[str]) -> dict[str, str]:
    """For each dotted path its shortest suffix of whole parts that is the suffix of no other."""
    paths = list(dict.fromkeys(names))
    owners: dict[str, int] = {}
    for path in paths:
        for suffix in suffixes(path):
            owners[suffix] = owners.get(suffix, 0) + 1
    return {path: next((suffix for suffix in suffixes(path) if owners[suffix] == 1), path) for path in paths}


def suffixes(path: str) -> list[str]:
    """The suffixes of whole parts of a dotted path, shortest first."""
    parts = path.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def metric_text(metric: str, value: float | None) -> str:
    """A value of a metric: accuracies in percent, others with four digits, a dash for none."""
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if metric in SHARES and math.isfinite(value) else f"{value:.4g}"


def value_text(value: Any) -> str:
    """A parameter's value on one line: numbers with four digits, lists and maps as JSON, a dash for none there."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parameters_text(parameters: dict[str, Any], short: dict[str, str] | None = None) -> str:
    """`name=value` of each, with short names; what a trial does not have is left out."""
    short = short_names(parameters) if short is None else short
    return " ".join(f"{short[name]}={value_text(value)}" for name, value in parameters.items())


def better(value: float, than: float, mode: str) -> bool:
    """Whether `value` beats `than`; mode is `max` or `min`."""
    return value > than if mode == "max" else value < than


def standing(state: str) -> int:
    """Where trials of this state stand beside others, whatever their values: 0 what trained on, 1 what was stopped on
    the way, 2 what failed. A trial of a lower number is the better one, as it is for who chooses the winner."""
    return {"done": 0, "running": 0, "failed": 2}.get(state, 1)


def usable(value: float | None) -> bool:
    """Whether a trial has a value that can be compared."""
    return value is not None and math.isfinite(value)


def varying(search: dict[str, Any]) -> list[str]:
    """Names of the parameters that differ between a search's trials, or are not in all of them; as the space has them.

    When there is nothing to differ from (one trial), all of them. What the space does not name comes last.
    """
    first: dict[str, Any] = {}
    different: set[str] = set()
    met: dict[str, int] = {}
    for trial in search["trials"]:
        for name, value in trial["parameters"].items():
            met[name] = met.get(name, 0) + 1
            if first.setdefault(name, value) != value:
                different.add(name)
    count = len(search["trials"])
    some = [name for name in first if count == 1 or name in different or met[name] < count]
    place = {name: number for number, name in enumerate(search["space"])}
    return sorted(some, key=lambda name: place.get(name, len(place)))
