"""Laying one tree of plain values over another: `base:` files, `--set`, and the teacher's own `train`.

Maps merge key by key, lists and scalars replace. A map whose `type` changes replaces the whole map, because the keys
of the old type mean nothing to the new one. `null` sets None, and takes an objective away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdray.experiment.lookup import default_type
from kdray.experiment.paths import Keys, set_path


def merge(under: Any, over: Any, path: Keys = ()) -> Any:
    """Return `over` laid over `under`, both at the key path `path`; neither is changed."""
    if not isinstance(under, dict) or not isinstance(over, dict) or _type_changes(under, over, path):
        return over
    merged = dict(under)
    for key, value in over.items():
        if value is None and key in under and _holds_objectives(path):
            del merged[key]
        else:
            merged[key] = merge(under[key], value, (*path, key)) if key in under else value
    return merged


def override(tree: dict[str, Any], keys: Keys, value: Any) -> dict[str, Any]:
    """Return a copy of `tree` with `value` at `keys`, whole: a map replaces what stood there.

    As in `merge`, a changed `type` drops the keys beside it, and null takes an objective away.
    """
    *above, last = keys
    beside = _at(tree, above)
    if isinstance(beside, dict) and (last == "type" or (value is None and last in beside)):
        return set_path(tree, above, merge(beside, {last: value}, tuple(above)))
    return set_path(tree, keys, value)


def teacher_train(tree: dict[str, Any]) -> dict[str, Any]:
    """Return `tree` with `teacher.train`, if it stands there, completed from the experiment's `train`."""
    teacher, train = tree.get("teacher"), tree.get("train")
    if not isinstance(teacher, dict) or not isinstance(teacher.get("train"), dict) or not isinstance(train, dict):
        return tree
    return {**tree, "teacher": {**teacher, "train": merge(train, teacher["train"], ("teacher", "train"))}}


def _at(tree: Any, keys: Sequence[str | int]) -> Any:
    for key in keys:
        if isinstance(tree, list) and isinstance(key, int):
            tree = tree[key]
        else:
            tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _type_changes(under: dict[str, Any], over: dict[str, Any], path: Keys) -> bool:
    if "type" not in over:
        return False
    default = default_type(path)
    return (over["type"] or default) != (under.get("type") or default)


def _holds_objectives(path: Keys) -> bool:
    return path in (("objectives",), ("teacher", "objectives"))
