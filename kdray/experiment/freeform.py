"""Values whose keys this room does not know: builder parameters, objectives, augmentation lists.

Only their form is checked here (plain YAML data, the right nesting); the room that owns a name checks its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PlainValidator

from kdray.experiment.part import refuse

Path = tuple[str | int, ...]

MAX_DEPTH = 100  # far below Python's recursion limit, far above any experiment


def plain_copy(value: Any, at: Path = ()) -> Any:
    """Return a deep copy of plain data (text, finite numbers, booleans, None, lists, maps with text keys).

    Raises a pydantic custom error that carries the path of the first value that is anything else.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise refuse(f"{value} is not a finite number", "Give a finite number", at)
        return value
    if len(at) > MAX_DEPTH:
        raise refuse("nested too deeply", "An experiment needs a few levels only", at[:3])
    if isinstance(value, Mapping):
        return {_text_key(key, at): plain_copy(item, (*at, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_copy(item, (*at, i)) for i, item in enumerate(value)]
    kind = type(value).__name__
    raise refuse(f"a {kind} cannot stand in an experiment", "Use text, numbers, true, false, null, lists or maps", at)


def _text_key(key: Any, at: Path) -> str:
    if not isinstance(key, str):
        raise refuse(f"the key {key!r} is not text", f'Write "{key}" in quotes', at)
    return key


def _name(key: Any, at: Path) -> str:
    if not _text_key(key, at):
        raise refuse("has an empty name", "Write the name before the colon", at)
    return key


def _map_of_parameters(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise refuse("wants a map of parameters", "Write `key: value` lines under it, or {key: value}", (), value)
    return plain_copy(value)


def _map_of_objectives(value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, Mapping):
        raise refuse("wants a map of objectives", "Write {ce: {weight: 1}}", (), value)
    objectives: dict[str, dict[str, Any]] = {}
    for name, parameters in value.items():
        _name(name, ())
        if parameters is None:
            parameters = {}
        elif isinstance(parameters, int | float) and not isinstance(parameters, bool):
            problem = f"{parameters} stands where the objective's parameters belong"
            raise refuse(problem, f"Write {name}: {{weight: {parameters}}}", (name,))
        elif not isinstance(parameters, Mapping):
            raise refuse("wants a map of parameters", f"Write {name}: {{weight: 1}}", (name,), parameters)
        objectives[name] = plain_copy(parameters, (name,))
    return objectives


def _list_of_transforms(value: Any) -> list[str | dict[str, dict[str, Any]]]:
    if not isinstance(value, list | tuple):
        raise refuse("wants a list of transforms", "Write [pad_crop, flip] or [{resize: {size: 256}}]", (), value)
    return [_transform(item, i) for i, item in enumerate(value)]


def _transform(item: Any, i: int) -> str | dict[str, dict[str, Any]]:
    if isinstance(item, str) and item:
        return item
    if not isinstance(item, Mapping) or not item:
        fix = "Write its name, or {name: {parameter: value}}"
        raise refuse("wants the name of a transform", fix, (i,), item)
    if len(item) > 1:
        names = ", ".join(map(str, item))
        fix = "Give each its own list entry, and parameters as {name: {parameter: value}}"
        raise refuse(f"has {len(item)} names ({names}) where one transform belongs", fix, (i,))
    (name, parameters), *_ = item.items()
    _name(name, (i,))
    if not parameters and (parameters is None or isinstance(parameters, Mapping)):
        return name  # `flip`, `flip:` and `flip: {}` are one setting, so they are one digest
    if not isinstance(parameters, Mapping):
        problem, fix = "wants a map of parameters", f"Write {{{name}: {{parameter: value}}}}"
        raise refuse(problem, fix, (i, name), parameters)
    return {name: plain_copy(parameters, (i, name))}


Parameters = Annotated[dict[str, Any], PlainValidator(_map_of_parameters)]
Objectives = Annotated[dict[str, dict[str, Any]], PlainValidator(_map_of_objectives)]
Transforms = Annotated[list[str | dict[str, dict[str, Any]]], PlainValidator(_list_of_transforms)]
