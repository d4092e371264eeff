"""Class names that stand in a file of their own, and names made distinct."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from kdray.data.pack.found import Found
from kdray.errors import DataError
from kdray.store import Store

FILES = ("classes.json", "classnames.txt", "class_names.txt", "classes.txt")
_FIX = 'Write ["first", "second", ...] in label order, or one name a line into classes.txt'


def names_beside(found: Found) -> tuple[str, ...] | None:
    """Class names of a `classes.json` (a list, or a map with `classes`) or a text file beside the shards, if any.

    Raises:
        DataError: the file does not read, or says a name twice.
    """
    folder = found.uri.rpartition("/")[0] if found.file else found.uri
    store = Store(folder)
    for name in FILES:
        there = store.exists(name) if found.file else name in found.entries and not found.entries[name].folder
        if there:
            return _parse(store.read_bytes(name), store.path_uri(name))
    return None


def distinct(names: Sequence[str], keys: Sequence[str]) -> tuple[str, ...]:
    """`names`, those that come more than once with their key behind: ImageNet has two kinds of crane."""
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({key})" for name, key in zip(names, keys, strict=True))


def _parse(data: bytes, where: str) -> tuple[str, ...]:
    try:
        text = data.decode()
        if where.endswith(".json"):
            said = json.loads(text)
            said = said.get("classes") if isinstance(said, dict) else said
        else:
            said = [line.strip() for line in text.splitlines() if line.strip()]
    except ValueError as exc:
        raise DataError("does not read", where=where, fix=_FIX) from exc
    if not isinstance(said, list) or not said or not all(isinstance(name, str) for name in said):
        raise DataError("is no list of class names", where=where, fix=_FIX)
    if len(set(said)) < len(said):
        twice = next(name for name, count in Counter(said).items() if count > 1)
        raise DataError(f"names {twice!r} twice", where=where, fix="Give each class a name of its own")
    return tuple(said)
