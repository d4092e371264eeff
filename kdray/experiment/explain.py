"""Turns pydantic's errors into one ConfigError that says where, what, and the way out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from kdray.errors import ConfigError, nearest
from kdray.experiment.lookup import places_of, valid_keys
from kdray.experiment.yaml_text import Path, dotted, reads_as_number

MOST_LINES = 5

Place = Callable[[Path], str]  # where a key path was written: "file:line", "--set text"
Said = tuple[str, str]  # problem, fix
Problem = tuple[Path, Said]


def problems(error: ValidationError) -> list[Problem]:
    """What is wrong, and with which keys; each once."""
    found: dict[Problem, None] = {}  # a dict keeps the order and drops repeats
    for item in error.errors(include_url=False):
        found[_path(item), _say(item)] = None
    # What teacher.train has from the experiment's train is reported there, once.
    said_of = {(path, said[0]) for path, said in found}
    return [(path, said) for path, said in found if path[:1] != ("teacher",) or (path[1:], said[0]) not in said_of]


def explain(found: Sequence[Problem], place: Place) -> ConfigError:
    """Return the error to raise: the first problem, and up to four more on lines of their own."""
    lines = [ConfigError(said[0], where=_where(path, said, place), fix=said[1]) for path, said in found]
    first, more = lines[0], [str(line) for line in lines[1:MOST_LINES]]
    if len(lines) > MOST_LINES:
        more[-1] += f" (and {len(lines) - MOST_LINES} more)"
    return ConfigError(first.problem, where=first.where, fix="\n".join([first.fix or "", *more]))


def _path(item: Any) -> Path:
    return (*item["loc"], *item.get("ctx", {}).get("at", ()))


def _where(path: Path, said: Said, place: Place) -> str:
    # A missing key is nowhere; the `type` beside it is what asked for it, and may have come from an override.
    asked = (*path[:-1], "type") if said[0] == "is missing" else path
    return f"{place(asked)}: {dotted(path)}" if path else place(path)


def _say(item: Any) -> Said:
    kind, value, ctx = item["type"], item["input"], item.get("ctx", {})
    if kind == "kdray":
        stands = "" if ctx["value"] is None else f", but {show(ctx['value'])} stands there"
        return ctx["problem"] + stands, ctx["fix"]
    path = _path(item)
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return _missing(path)
    if kind == "literal_error":
        return _wrong_choice(value, re.findall(r"'([^']*)'", ctx["expected"]))
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{show(value)} is out of range", f"Give a number {words} {_number(ctx[name])}"
    if value is None:
        return "has no value (null)", "Write a value"
    if kind in _TYPES:
        wanted, fix = _TYPES[kind]
        return f"wants {wanted}, but {show(value)} stands there", fix(value, path)
    if kind in ("string_too_short", "too_short"):
        return "is empty", "Write a value, or remove the key"
    if kind in ("string_pattern_mismatch", "string_too_long"):
        return f"{show(value)} cannot be a name", "Write one of 1 to 100 letters, digits, dots, dashes or underscores"
    return f"{item['msg']}, but {show(value)} stands there", "Correct the value"


def _unknown_key(path: Path) -> Said:
    key, beside = str(path[-1]), valid_keys(path[:-1])
    if key == "base":
        return "base works at the top of a file only", "Move it there, or remove it"
    hint = nearest(key.lower(), beside)
    elsewhere = [place for place in places_of(key) if place != dotted(path)]
    if not hint and elsewhere:
        return f"unknown key {key!r}", f"Write it as {' or '.join(elsewhere[:3])}"
    return f"unknown key {key!r}{hint}", f"Valid keys here: {', '.join(beside)}"


def _missing(path: Path) -> Said:
    under = f"under {dotted(path[:-1])}" if len(path) > 1 else "at the top"
    changed = "; a changed `type` starts from an empty map" if "type" in valid_keys(path[:-1]) else ""
    return "is missing", f"Add {path[-1]} {under}{changed}"


def _wrong_choice(value: Any, choices: list[str]) -> Said:
    # By its letters a gpu is nearest to cpu, which is what was not meant.
    hint = nearest("cuda" if value == "gpu" else str(value).lower(), choices)
    return f"{show(value)} is not a choice{hint}", f"Choose one of {', '.join(choices)}"


def _number_fix(value: Any, path: Path) -> str:
    quoted = isinstance(value, str) and reads_as_number(value)
    return f"Write {value} without quotes" if quoted else "Write a number"


def _whole_number_fix(value: Any, path: Path) -> str:
    if isinstance(value, float) and value.is_integer():
        return f"Write {int(value)}"
    quoted = isinstance(value, str) and reads_as_number(value, whole=True)
    return f"Write {value} without quotes" if quoted else "Write a whole number"


def _bool_fix(value: Any, path: Path) -> str:
    meant = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
    text = str(value).lower()
    return f"Write {meant.get(text) or (text if text in ('true', 'false') else 'true or false')}"


def _text_fix(value: Any, path: Path) -> str:
    return "Put it in quotes" if isinstance(value, bool | int | float) else "Write text"


def _map_fix(value: Any, path: Path) -> str:
    keys = valid_keys(path)
    head = next((key for key in ("model", "type") if key in keys), None)
    if head and isinstance(value, str):
        return f"Write {{{head}: {value}}}"
    return f"Write key: value lines; the keys are {', '.join(keys)}"


def _list_fix(value: Any, path: Path) -> str:
    return f"Write [{show(value)}]" if isinstance(value, str | int | float) else "Write [a, b]"


_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "of at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "of at most"),
}
_TYPES: dict[str, tuple[str, Callable[[Any, Path], str]]] = {
    "int_type": ("a whole number", _whole_number_fix),
    "float_type": ("a number", _number_fix),
    "finite_number": ("a finite number", _number_fix),
    "bool_type": ("true or false", _bool_fix),
    "string_type": ("text", _text_fix),
    "list_type": ("a list", _list_fix),
    "model_type": ("a map of keys", _map_fix),
}


def show(value: Any) -> str:
    """Return `value` as YAML would write it on one line, cut to 60 characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
