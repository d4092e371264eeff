"""`variants:` of a file: partial experiments by name, each laid over the file's other keys to a whole one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdray.errors import ConfigError, nearest
from kdray.experiment.comparison import SHARED_KEYS, SINGLE_KEYS, VARIANT_KEYS
from kdray.experiment.explain import Place, show
from kdray.experiment.merge import merge, override
from kdray.experiment.origin import MATRIX, VARIANTS
from kdray.experiment.sets import Set

Trees = dict[str, dict[str, Any]]  # whole experiments, not yet checked, by variant
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")

NO_SEARCH = "Write what the variants differ in as a group of search.space, or give the search a file of its own"


@dataclass(frozen=True)
class Layer:
    """The `variants:` (or the `matrix:`) of one text, and how that says where they stand."""

    value: Any
    place: Place


def expand(top: dict[str, Any], layers: Sequence[Layer]) -> Trees:
    """Return `top` with each variant laid over it: those of all `layers`, the bases' first.

    The layers are laid over `top` one after the other, so that null in any of them takes away the objective that it
    finds. A variant that is null is taken away whole.

    Raises:
        ConfigError: what is no variant, or one that changes what all share.
    """
    trees: Trees = {}
    for layer in layers:
        if layer.value is None:
            continue
        _check_map(layer.value, layer.place((VARIANTS,)), VARIANTS)
        for name, part in layer.value.items():
            where = layer.place((VARIANTS, name))
            if part is None:
                _take_away(trees, name, where)
            else:
                check_part(name, part, layer.place)
                trees[name] = merge(trees.get(name, top), part)
    return trees


def apply_set(top: dict[str, Any], trees: Trees, item: Set) -> Trees:
    """Return `trees` with a `--set variants...` applied.

    Raises:
        ConfigError: a variant that is not there, or a key that is no variant's.
    """
    keys = item.resolve({VARIANTS: trees})
    value = item.document.value
    if len(keys) == 1:
        return expand(top, [Layer(value, lambda _: item.source)])
    name = str(keys[1])
    if len(keys) == 2:
        if value is None:
            _take_away(trees := dict(trees), name, item.source)
            return trees
        check_part(name, value, lambda _: item.source)
        return {**trees, name: merge(top, value)}
    if name not in trees:
        raise ConfigError(f"no variant {name!r}{nearest(name, trees)}", where=item.source, fix=_there(trees))
    check_key(f"{VARIANTS}.{name}", keys[2], item.source)
    with item.named():
        return {**trees, name: override(trees[name], keys[2:], value)}


def check_part(name: Any, part: Any, place: Place) -> None:
    """Check the name of a variant, and that it holds keys of a variant only.

    Raises:
        ConfigError: it does not.
    """
    where = place((VARIANTS, name))
    if not NAME.fullmatch(str(name)):
        fix = "Write one of 1 to 60 letters, digits, dots, dashes or underscores"
        raise ConfigError(f"{show(name)} cannot be a name", where=f"{where}: {VARIANTS}", fix=fix)
    _check_map(part, where, f"{VARIANTS}.{name}")
    for key in part:
        check_key(f"{VARIANTS}.{name}", key, place((VARIANTS, name, key)))


def check_key(path: str, key: Any, where: str, whose: str = "variant") -> None:
    """Check that `key`, which stands below the dotted `path`, may differ between the experiments of a file.

    Raises:
        ConfigError: it may not.
    """
    if key in VARIANT_KEYS:
        return
    takes = f"A {whose} takes {', '.join(VARIANT_KEYS)}"
    if key in SINGLE_KEYS:
        problem, fix = f"a file with {whose}s cannot have a {key}", NO_SEARCH
    elif key in SHARED_KEYS or key in (VARIANTS, MATRIX, "base"):
        problem = f"{key} is not a {whose}'s to change"
        fix = f"Move it to the top of the file, or remove it. {takes}"
    else:
        problem, fix = f"unknown key {key!r}{nearest(str(key).lower(), VARIANT_KEYS)}", takes
    raise ConfigError(problem, where=f"{where}: {path}.{key}", fix=fix)


def _check_map(value: Any, where: str, path: str) -> None:
    if not isinstance(value, dict):
        fix = (
            "Write NAME: {objectives: {...}} under it"
            if path == VARIANTS
            else f"Write a map. A variant takes {', '.join(VARIANT_KEYS)}"
        )
        raise ConfigError(f"wants a map, but {show(value)} stands there", where=f"{where}: {path}", fix=fix)


def _take_away(trees: Trees, name: str, where: str) -> None:
    if trees.pop(name, None) is None:
        problem = f"there is no variant {name!r} to take away{nearest(name, trees)}"
        fix = f"Write {name}: {{}} for the experiment as the file has it. {_there(trees)}"
        raise ConfigError(problem, where=f"{where}: {VARIANTS}.{name}", fix=fix)


def _there(trees: Trees) -> str:
    return f"Variants: {', '.join(trees)}" if trees else "There are no variants"
