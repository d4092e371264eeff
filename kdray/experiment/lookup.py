"""Questions about the schema itself: which keys a path takes, which type it has unwritten, where a key belongs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args, get_origin

from kdray.experiment.part import Part
from kdray.experiment.schema import Experiment

Path = tuple[str | int, ...]


def part_at(path: Path) -> type[Part] | None:
    """Return the Part whose keys stand under `path`, or None where the schema has none (free-form values, leaves)."""
    part: type[Part] | None = Experiment
    for key in path:
        if isinstance(key, int):  # an item of a list of parts: they are asked for by the list's name
            continue
        found = part.model_fields.get(str(key)) if part else None
        part = _part_in(found.annotation) if found else None
    return part


def valid_keys(path: Path) -> list[str]:
    """Return the keys that may stand under `path`, in the schema's order; [] where any may."""
    part = part_at(path)
    return [*(part.model_fields if part else ()), *(() if path else ("variants", "matrix"))]


def default_type(path: Path) -> str | None:
    """Return the `type` that the map at `path` has when it does not say, or None where none is known."""
    below = path[1:] if path[:1] == ("teacher",) else path
    if below[:1] == ("objectives",):  # an objective's type is its own name unless it says so
        if len(below) == 2:
            return str(below[1])
        return "constant" if below[2:] == ("schedule",) else None
    part = part_at(path)
    found = part.model_fields.get("type") if part else None
    return found.default if found else None


def places_of(key: str) -> list[str]:
    """Return the dotted paths of all fields called `key`, the shortest first."""
    return sorted((path for path in _all_paths() if path.rsplit(".", 1)[-1] == key), key=lambda p: (p.count("."), p))


@cache
def _all_paths() -> tuple[str, ...]:
    return tuple(_walk(Experiment, ""))


def _walk(part: type[Part], prefix: str) -> Iterator[str]:
    for name, field in part.model_fields.items():
        yield prefix + name
        below = _part_in(field.annotation)
        if below and get_origin(field.annotation) is not list:
            yield from _walk(below, f"{prefix}{name}.")


def _part_in(annotation: Any) -> type[Part] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Part):
            return kind
    return None
