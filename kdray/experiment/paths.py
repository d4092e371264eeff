"""Dotted paths into nested plain values: `train.optimizer.lr`, `data.augment.0`.

A name may hold dots itself (`objectives.clmkd.class_guided.weight`): at each map the longest key that stands there is
taken. Quotes keep a name that does not stand there yet in one piece: `objectives."clmkd.class_guided".weight`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from kdray.errors import ConfigError, nearest

Keys = tuple[str | int, ...]

_PART = re.compile(r'"([^"]+)"|([^."]+)')


def split_path(path: str) -> list[str]:
    """Return the names of a dotted path; raises ConfigError when one is empty or a quote is not closed."""
    parts: list[str] = []
    at = 0
    while True:
        match = _PART.match(path, at)
        if match is None:
            raise ConfigError(f"{path!r} is not a dotted path", fix="Write names with dots between: train.optimizer.lr")
        parts.append(match[1] or match[2])
        at = match.end()
        if at == len(path):
            return parts
        at = at + 1 if path[at] == "." else len(path)  # anything else after a name: no name matches at the end


def is_path(path: str) -> bool:
    """Whether `path` is a dotted path."""
    try:
        split_path(path)
    except ConfigError:
        return False
    return True


def resolve(tree: Any, path: str) -> Keys:
    """Return the keys that the dotted `path` means in `tree`: the longest key that stands there at each map.

    What does not stand there is taken name by name, as keys to be made. A list takes a number. Raises ConfigError
    when the path leads into a value that is neither map nor list, or out of a list.
    """
    keys: list[str | int] = []
    rest = split_path(path)
    node = tree
    while rest:
        if isinstance(node, list):
            index = _list_index(node, rest.pop(0), keys)
            keys.append(index)
            node = node[index]
        elif isinstance(node, dict):
            taken = next((n for n in range(len(rest), 0, -1) if ".".join(rest[:n]) in node), 1)
            keys.append(".".join(rest[:taken]))
            rest = rest[taken:]
            node = node.get(keys[-1])
        elif node is None:
            return (*keys, *rest)
        else:
            # A bare name in a list of transforms takes its parameters as a map.
            listed = isinstance(node, str) and bool(keys) and isinstance(keys[-1], int)
            example = f"{{{node}: {{{rest[0]}: ...}}}}" if listed else f"{{{rest[0]}: ...}}"
            fix = f"Set {_dots(keys)} itself to a map, such as {example}"
            raise ConfigError(f"{_dots(keys)} is {node!r}, so it holds no {rest[0]!r}", where=path, fix=fix)
    return tuple(keys)


def get_path(tree: Any, path: str | Sequence[str | int]) -> Any:
    """Return the value at a dotted path (or at resolved keys); raises ConfigError, with the nearest key, if absent."""
    keys = resolve(tree, path) if isinstance(path, str) else tuple(path)
    node = tree
    for depth, key in enumerate(keys):
        if isinstance(node, dict) and key not in node:
            beside = f"{_dots(keys[:depth])} has" if depth else "The top level has"
            fix = f"{beside} {', '.join(map(str, node)) or 'no keys'}"
            raise ConfigError(f"no key {key!r}{nearest(str(key), map(str, node))}", where=_dots(keys), fix=fix)
        if not isinstance(node, dict | list):
            fix = f"{_dots(keys[:depth])} is {node!r}"
            raise ConfigError(f"no key {key!r}", where=_dots(keys), fix=fix)
        node = node[key]  # type: ignore[index]
    return node


def set_path(tree: Any, path: str | Sequence[str | int], value: Any) -> Any:
    """Return a copy of `tree` with `value` at a dotted path (or at resolved keys); missing maps are made.

    The given tree is not changed; what lies off the path is shared with it.
    """
    keys = resolve(tree, path) if isinstance(path, str) else tuple(path)
    if not keys:
        return value
    if isinstance(tree, list):
        copy: Any = list(tree)
        copy[keys[0]] = set_path(tree[keys[0]], keys[1:], value)  # type: ignore[index]
        return copy
    if tree is not None and not isinstance(tree, dict):
        raise ConfigError(f"{tree!r} holds no key {keys[0]!r}", where=_dots(keys), fix="Set a map there first")
    below = tree or {}
    return {**below, keys[0]: set_path(below.get(keys[0]), keys[1:], value)}


def _list_index(items: list[Any], part: str, keys: Sequence[str | int]) -> int:
    if part.isascii() and part.isdigit() and int(part) < len(items):
        return int(part)
    fix = f"Count from 0 to {len(items) - 1}, or set the whole list" if items else "Set the whole list: it is empty"
    raise ConfigError(f"{_dots(keys)} is a list and has no item {part!r}", where=_dots([*keys, part]), fix=fix)


def _dots(keys: Sequence[str | int]) -> str:
    return ".".join(map(str, keys))
