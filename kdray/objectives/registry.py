"""Methods by name: registration on the class, discovery of the package, and what the experiment's `objectives:`
means."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

import kdray.objectives
from kdray.errors import ConfigError, nearest
from kdray.experiment.explain import show
from kdray.experiment.part import Part
from kdray.objectives.contract import NOTHING, Needs, Objective, ObjectiveConfig, Provenance, Setup

_METHODS: dict[str, type[Objective]] = {}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]*")
_O = TypeVar("_O", bound=type[Objective])


def register(name: str) -> Callable[[_O], _O]:
    """Class decorator: make an `Objective` known as `name` (and check that it says where it comes from)."""

    def add(cls: _O) -> _O:
        problem = _incomplete(cls)
        if problem:
            raise TypeError(f"objective {name!r}: {problem}")
        known = _METHODS.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"objective {name!r} is registered twice: {known.__module__} and {cls.__module__}")
        cls.method = name
        _METHODS[name] = cls
        return cls

    return add


def _incomplete(cls: object) -> str | None:
    """What an objective class lacks, or None."""
    if not (isinstance(cls, type) and issubclass(cls, Objective)):
        return "it is not a subclass of kdray.objectives.Objective"
    if inspect.isabstract(cls):
        return "it does not define forward"
    config = getattr(cls, "config", None)
    if not (isinstance(config, type) and issubclass(config, ObjectiveConfig)):
        return "its `config` is not a subclass of kdray.objectives.ObjectiveConfig"
    if getattr(cls, "provenance", None) not in get_args(Provenance):
        return f"its `provenance` is none of {', '.join(get_args(Provenance))}"
    if not getattr(cls, "family", "") or not getattr(cls, "source", ""):
        return "it names no `family` or no `source`"
    return None


@functools.cache
def methods() -> dict[str, type[Objective]]:
    """Every registered method of the package, by name. A module that stands in the package is found; there is no
    list."""
    for module in pkgutil.walk_packages(kdray.objectives.__path__, kdray.objectives.__name__ + "."):
        importlib.import_module(module.name)
    return dict(sorted(_METHODS.items()))


@dataclass(frozen=True)
class MethodRow:
    """One line of `--list methods`; `needs` are those of the default options."""

    name: str
    family: str
    provenance: str
    source: str
    summary: str
    needs: Needs


def list_methods() -> list[MethodRow]:
    """All methods with their provenance, sorted by name."""
    return [
        MethodRow(
            name=name,
            family=cls.family,
            provenance=cls.provenance,
            source=cls.source,
            summary=(cls.__doc__ or "").strip().partition("\n")[0],
            needs=cls.needs(cls.config()),
        )
        for name, cls in methods().items()
    ]


@dataclass(frozen=True)
class Entry:
    """One line of an experiment's `objectives:`, understood."""

    name: str
    objective: type[Objective]
    options: ObjectiveConfig


def parse(objectives: Mapping[str, Any], where: str = "objectives") -> list[Entry]:
    """Typed entries of `objectives` (name -> parameters), in their order.

    `type:` names the method where the name does not: a registered one, or `package.module:Class` of the user's.

    Raises:
        ConfigError: unknown method or parameter (with the nearest name), or a value out of range, by its key path.
    """
    if not isinstance(objectives, Mapping):
        raise ConfigError(f"{objectives!r} is not a map of objectives", where=where, fix="Write `ce: {weight: 1}`")
    if not objectives:
        raise ConfigError("no objective is given", where=where, fix="Start with `ce: {}`")
    return [_entry(name, params, where) for name, params in objectives.items()]


def _entry(name: Any, params: Any, where: str) -> Entry:
    path = f"{where}.{name}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError("this is no name for an objective", where=path, fix="Use letters, digits, `_`, `-` and `.`")
    params = {} if params is None else params
    if not isinstance(params, Mapping):
        raise ConfigError(f"{params!r} is not a map of parameters", where=path, fix=f"Write `{name}: {{weight: 1}}`")
    params = dict(params)
    given = params.pop("type", None)
    if given is not None and not isinstance(given, str):
        raise ConfigError(f"{given!r} is not a method's name", where=f"{path}.type", fix=_known())
    cls = _class(name if given is None else given, path if given is None else f"{path}.type")
    try:
        options = cls.config.model_validate(params)
    except ValidationError as error:
        raise _explain(error, cls.config, path, name if given is None else given) from None
    return Entry(name, cls, options)


def _known() -> str:
    return "`--list methods` names all of them; one of your own is `type: package.module:Class`"


def _class(method: str, where: str) -> type[Objective]:
    if ":" in method:
        return _user_class(method, where)
    known = methods()
    if method not in known:
        raise ConfigError(f"unknown method {method!r}{nearest(method, known)}", where=where, fix=_known())
    return known[method]


def _user_class(reference: str, where: str) -> type[Objective]:
    module_name, _, class_name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module raises is the user's input
        raise ConfigError(
            f"{module_name!r} cannot be imported: {type(error).__name__}: {error}",
            where=where,
            fix="Give `package.module:Class` of a module that is installed or stands where the command runs",
        ) from error
    cls = getattr(module, class_name, None)
    if cls is None:
        raise ConfigError(f"{module_name!r} has no {class_name!r}{nearest(class_name, vars(module))}", where=where)
    problem = _incomplete(cls)
    if problem:
        raise ConfigError(
            f"{reference!r} is no objective: {problem}",
            where=where,
            fix="kdray/objectives/contract.py says what one is",
        )
    assert isinstance(cls, type)
    return cls


def _explain(error: ValidationError, config: type[Part], where: str, method: str) -> ConfigError:
    """Pydantic's errors as one ConfigError: the first key's path, what is wrong with it, the choices."""
    found: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        keys = [where]
        part: type[Part] | None = config
        for key in item["loc"]:
            if part is None:
                break  # what follows says which branch of a union refused the value
            keys.append(str(key))
            if item["type"] == "extra_forbidden" and len(keys) > len(item["loc"]):
                fields = list(part.model_fields)
                problem = f"{method} has no such parameter{nearest(str(key), fields)}"
                return ConfigError(problem, where=".".join(keys), fix=f"Parameters: {', '.join(fields)}")
            part = _part_at(part, str(key))
        said = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if item["type"] == "model_type":
            said = "should be a map of parameters"
        found.setdefault(".".join(keys), []).append(
            said if item["type"] == "value_error" else f"{show(item['input'])} {said}"
        )
    (path, (first, *rest)), *others = found.items()
    branches = [first, *(one.partition(" should be ")[2] for one in rest)]
    return ConfigError(" or ".join(branches) + (f" (and {len(others)} more)" if others else ""), where=path)


def _part_at(part: type[Part], key: str) -> type[Part] | None:
    field = part.model_fields.get(key)
    kind = None if field is None else field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Part) else None


def normalise(objectives: Mapping[str, Any], where: str = "objectives") -> dict[str, dict[str, Any]]:
    """`objectives` typed, without defaults and sorted by name: equal for experiments that mean the same, hence what
    digests are made from. Sorted, because an optimizer's saved state is by the order of the heads.

    Raises:
        ConfigError: as `parse`.
    """
    result = {}
    for entry in sorted(parse(objectives, where), key=lambda entry: entry.name):
        given = (objectives[entry.name] or {}).get("type", entry.name)
        kind = {} if given == entry.name else {"type": given}
        result[entry.name] = kind | entry.options.canonical()
    return result


def revisions(objectives: Mapping[str, Any], where: str = "objectives") -> dict[str, int]:
    """Revision of every objective here that is past its first: part of a digest, for defaults are not.

    Raises:
        ConfigError: as `parse`.
    """
    return {entry.name: entry.objective.revision for entry in parse(objectives, where) if entry.objective.revision > 1}


def needs(objectives: Mapping[str, Any], where: str = "objectives") -> Needs:
    """The union of what these objectives need; what has weight 0 needs nothing.

    Raises:
        ConfigError: as `parse`.
    """
    total = NOTHING
    for entry in parse(objectives, where):
        if entry.options.weight > 0:
            total |= entry.objective.needs(entry.options)
    return total


def bank_bytes(objectives: Mapping[str, Any], setup: Setup, where: str = "objectives") -> dict[str, int]:
    """Bytes of state per objective that has any, on every worker: what a plan prints before the run starts.

    Raises:
        ConfigError: as `parse`.
    """
    sizes = {
        entry.name: entry.objective.bank_bytes(entry.options, setup)
        for entry in parse(objectives, where)
        if entry.options.weight > 0
    }
    return {name: size for name, size in sizes.items() if size}
