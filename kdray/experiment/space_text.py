"""`search.space` of an experiment file: from its texts to a `Space`, and back to plain values.

At the top stand paths with a distribution each, and groups. In an alternative of a group any other value is fixed: it
is what the path is set to. A list is a choice everywhere.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from kdray.errors import ConfigError, nearest
from kdray.experiment.distributions import Choice, Distribution, Integer, Uniform, written
from kdray.experiment.paths import split_path
from kdray.experiment.space import Alternative, Group, Space
from kdray.experiment.yaml_text import parse

ROOTS = ("seed", "data", "teacher", "student", "objectives", "train")  # the keys under which there is what to search
FORMS = {
    "uniform": "uniform(0.1, 1)",
    "loguniform": "loguniform(0.01, 3)",
    "int": "int(1, 8)",
    "logint": "logint(1, 64)",
    "choice": "choice(2, 4, 8)",
}

Keys = tuple[str, ...]
_CALL = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*\((.*)\)\s*", re.DOTALL)
_GROUP = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_ALTERNATIVE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


class Unreadable(Exception):
    """What is wrong with a space, at the keys below it."""

    def __init__(self, keys: Keys, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.keys, self.problem, self.fix = keys, problem, fix


def parse_space(plain: Any, where: str = "search.space") -> Space:
    """Return the space that the map `plain` describes.

    Raises:
        ConfigError: what is no distribution, path or group, by its key path below `where`.
    """
    try:
        return read_space(plain)
    except Unreadable as error:
        raise ConfigError(error.problem, where=".".join((where, *error.keys)), fix=error.fix) from None


def read_space(plain: Any) -> Space:
    """As `parse_space`; raises Unreadable."""
    if not isinstance(plain, Mapping):
        fix = f"Write PATH: DISTRIBUTION lines, such as train.optimizer.lr: {FORMS['loguniform']}"
        raise Unreadable((), f"wants a map, but {written(plain)} stands there", fix)
    parameters: dict[str, Distribution] = {}
    groups: list[Group] = []
    for keys, name, value in _flat(plain):
        if not _is_path(name, value, keys):
            groups.append(_group(name, value, keys))
            continue
        found = _distribution(value, keys)
        if found is None:
            hint = nearest(_called_as(value) or "", FORMS) if isinstance(value, str) else ""
            raise Unreadable(keys, f"{written(value)} is no distribution{hint}", _forms())
        if name in parameters:
            raise Unreadable(keys, "is given twice", "Keep one of them")
        parameters[name] = found
    return _built(Space, (), parameters, tuple(groups))


def plain_space(space: Space) -> dict[str, Any]:
    """Return plain values that are read back to an equal space: distributions as text."""
    plain: dict[str, Any] = {path: one.text() for path, one in space.parameters.items()}
    for group in space.groups:
        plain[group.name] = {
            name: alternative.fixed | plain_space(alternative.space) for name, alternative in group.alternatives.items()
        }
    return plain


def read_distribution(text: str) -> Distribution:
    """Return the distribution that `text` is.

    Raises:
        ConfigError: it is none.
    """
    found = _called(text)
    if found is None:
        raise ConfigError(f"{written(text)} is no distribution", fix=_forms())
    return found


def _flat(plain: Mapping[str, Any], above: Keys = ()) -> Iterator[tuple[Keys, str, Any]]:
    """The entries of a space, `{train: {optimizer: {lr: ...}}}` as `train.optimizer.lr`: keys, name, value."""
    for key, value in plain.items():
        keys = (*above, key)
        inside = bool(above) or (head_of(key) in ROOTS)
        if inside and isinstance(value, Mapping) and value:
            yield from _flat(value, keys)
        else:
            yield keys, ".".join(f'"{part}"' if i and "." in part else part for i, part in enumerate(keys)), value


def _is_path(name: str, value: Any, keys: Keys) -> bool:
    """Whether `name` is the path of a parameter, and not the name of a group."""
    head = head_of(name)
    if head in ROOTS:
        return True
    if isinstance(value, Mapping) and _GROUP.fullmatch(name):
        return False
    hint = nearest(head, ROOTS)
    if isinstance(value, Mapping) and not hint:
        raise Unreadable(keys, f"{name!r} cannot be the name of a group", "Write a word: letters, digits, - and _")
    fix = f"A path begins with one of {', '.join(ROOTS)}"
    raise Unreadable(keys, f"{head!r} is not a part of an experiment that can be searched{hint}", fix)


def head_of(path: str) -> str:
    """The first name of a path: the part of the experiment that it leads into."""
    try:
        return split_path(path)[0]
    except ConfigError:
        return path


def _group(name: str, plain: Mapping[str, Any], keys: Keys) -> Group:
    alternatives = {}
    for one, values in plain.items():
        if not _ALTERNATIVE.fullmatch(one):
            fix = "Write letters, digits, dots, dashes or underscores"
            raise Unreadable((*keys, one), f"{written(one)} cannot be the name of an alternative", fix)
        if values is not None and not isinstance(values, Mapping):
            fix = "Write PATH: VALUE lines, {} for none; to choose a value of one path, make a list of its values"
            raise Unreadable((*keys, one), f"wants a map, but {written(values)} stands there", fix)
        alternatives[one] = _alternative(values or {}, (*keys, one))
    return _built(Group, keys, name, alternatives)


def _alternative(plain: Mapping[str, Any], keys: Keys) -> Alternative:
    fixed: dict[str, Any] = {}
    parameters: dict[str, Distribution] = {}
    groups: list[Group] = []
    for name, value in plain.items():
        at = (*keys, name)
        if not _is_path(name, value, at):
            groups.append(_group(name, value, at))
            continue
        found = _distribution(value, at)
        if found is not None:
            parameters[name] = found
            continue
        _check_fixed(value, at)
        fixed[name] = value
    return _built(Alternative, keys, fixed, _built(Space, keys, parameters, tuple(groups)))


def _check_fixed(value: Any, keys: Keys) -> None:
    """Refuse a distribution inside a map that is a fixed value: there it would be text."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            _check_fixed(one, (*keys, key))
            if isinstance(one, str) and _called_as(one) in FORMS:
                fix = f"Give it a line of its own: {'.'.join((keys[-1], key))}: {one}"
                raise Unreadable((*keys, key), f"{one} stands inside a fixed map", fix)


def _distribution(value: Any, keys: Keys) -> Distribution | None:
    """The distribution that `value` is; None where it is a plain value."""
    try:
        if isinstance(value, list | tuple):
            return Choice(tuple(value))
        return _called(value) if isinstance(value, str) else None
    except ConfigError as error:
        said = error.problem if isinstance(value, list | tuple) else f"{value}: {error.problem}"
        raise Unreadable(keys, said, error.fix or _forms()) from None


def _called_as(text: str) -> str | None:
    match = _CALL.fullmatch(text)
    return match[1] if match else None


def _called(text: str) -> Distribution | None:
    """The distribution that `text` is, None where it is another text; raises ConfigError for a bad one."""
    match = _CALL.fullmatch(text)
    if match is None:
        opened = re.match(r"\s*(\w+)\s*\(", text)
        if opened and opened[1] in FORMS:
            fix = f"Write {FORMS[opened[1]]}; between {{ and }} put it in quotes"
            raise ConfigError("has no closing bracket", fix=fix)
        return None
    name = match[1]
    if name not in FORMS:
        # A fixed text may look like a call; one that is nearly a distribution is a slip.
        if difflib.get_close_matches(name, FORMS, n=1, cutoff=0.75):
            raise ConfigError(f"unknown distribution {name!r}{nearest(name, FORMS)}", fix=_forms())
        return None
    try:
        arguments = parse(f"[{match[2]}]", name, has_lines=False).value
    except ConfigError as error:
        raise ConfigError(error.problem, fix=error.fix) from None
    if name == "choice":
        return Choice(tuple(arguments))
    most = 2 if name.startswith("log") else 3
    if not 2 <= len(arguments) <= most:
        raise ConfigError(f"{name} takes {'2' if most == 2 else '2 or 3'} numbers", fix=f"Write {FORMS[name]}")
    low, high, *step = arguments
    log = name.startswith("log")
    if name.endswith("int"):
        return Integer(low, high, step[0] if step else 1, log)
    return Uniform(low, high, step[0] if step else None, log)


def _forms() -> str:
    return f"Write {', '.join(FORMS.values())} or a list; uniform and int take a step too: int(8, 64, 8)"


def _built(kind: Any, keys: Keys, *arguments: Any) -> Any:
    """`kind(*arguments)`, its ConfigError as Unreadable."""
    try:
        return kind(*arguments)
    except ConfigError as error:
        raise Unreadable((*keys, *([error.where] if error.where else [])), error.problem, error.fix or "") from None
