"""What many trees of plain values have in common, so that each need only say what is its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def common(trees: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Keys that all `trees` have with the same value, at any depth of their maps.

    Maps of different `type` have nothing in common: laid over one another, one replaces the other whole.
    """
    first, *others = trees
    shared: dict[str, Any] = {}
    for key, value in first.items():
        if not all(key in other for other in others):
            continue
        values = [value, *(other[key] for other in others)]
        if all(_same(value, other) for other in values):
            shared[key] = value
        elif all(isinstance(each, dict) for each in values):
            types = [each.get("type") for each in values]
            if types.count(types[0]) == len(types):
                shared[key] = common(values)
    return {key: value for key, value in shared.items() if value != {} or first[key] == {}}


def without(tree: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """What of `tree` is to be laid over `shared`, which is in it, to get `tree`."""
    own: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in shared:
            own[key] = value
        elif not _same(value, shared[key]):
            own[key] = without(value, shared[key])
    return own


def _same(left: Any, right: Any) -> bool:
    # 1 == True == 1.0 in Python; in a free-form parameter they are different settings.
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return type(left) is type(right) and bool(left == right)
