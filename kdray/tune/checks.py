"""A space tried on its experiment before anything runs: every parameter at its ends, every choice and alternative."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kdray.errors import ConfigError, KdrayError
from kdray.experiment import Experiment
from kdray.experiment.changes import with_changes
from kdray.experiment.distributions import Choice, Distribution, Value
from kdray.experiment.explain import show
from kdray.experiment.paths import split_path
from kdray.experiment.space import Space
from kdray.objectives.registry import parse

WHERE = "search.space"


def check_space(
    experiment: Experiment, space: Space, check: Callable[[Experiment], None] | None = None, where: str = WHERE
) -> None:
    """Make the experiment of the middle of `space`, and those with one parameter at an end of its range.

    `check` looks at each of them further, and raises a KdrayError about what it finds.

    Raises:
        ConfigError: one cannot be made; it names the parameter, the value and what was wrong.
    """
    for name, parameters in probes(space):
        changes = space.changes(parameters)
        try:
            trial = with_changes(experiment, changes, where)
            if trial.objectives:
                parse(trial.objectives)
            if trial.teacher is not None and trial.teacher.weights is None:
                parse(trial.teacher.objectives, "teacher.objectives")
            if check is not None:
                check(trial)
        except KdrayError as error:
            raise _blamed(error, name, parameters, changes, where) from None


def probes(space: Space) -> Iterator[tuple[str, dict[str, Value]]]:
    """Settings to try, each with the name that it tries: "" for the middle, then each name at its further values."""
    yield "", _setting(space, {})
    yield from _probes(space, space, {})


def _probes(space: Space, level: Space, pins: Mapping[str, Value]) -> Iterator[tuple[str, dict[str, Value]]]:
    for name, one in level.parameters.items():
        for value in one.values if isinstance(one, Choice) else (one.low, one.high):
            yield name, _setting(space, {**pins, name: value})
    for group in level.groups:
        for taken, alternative in group.alternatives.items():
            below = {**pins, group.name: taken}
            yield group.name, _setting(space, below)
            yield from _probes(space, alternative.space, below)


def _setting(space: Space, pins: Mapping[str, Value]) -> dict[str, Value]:
    return space.walk(lambda name, one: pins[name] if name in pins else middle(one))


def middle(one: Distribution) -> Value:
    """The value in the middle of a range, or the first choice."""
    if isinstance(one, Choice):
        return one.values[0]
    return one.snap(math.sqrt(one.low * one.high) if one.log else (one.low + one.high) / 2)


def _blamed(
    error: KdrayError, name: str, parameters: Mapping[str, Value], changes: Mapping[str, Any], where: str
) -> ConfigError:
    """`error` as one about the parameter that it comes from, with its value."""
    at = (error.where or "").removeprefix(f"{where}: ")
    tried = name or max((path for path in changes if _leads_to(path, at)), key=len, default="")
    if not tried:
        fix = (
            f"{error.fix or ''} Tried: {', '.join(f'{path}={show(value)}' for path, value in changes.items())}".strip()
        )
        return ConfigError(error.problem, where=f"{where}: {at}" if at else where, fix=fix)
    value = parameters[tried] if tried in parameters else changes[tried]
    said = error.problem if not at or _leads_to(tried, at) else f"{at}: {error.problem}"
    return ConfigError(f"value {show(value)}: {said}", where=f"{where}.{tried}", fix=error.fix)


def _leads_to(path: str, key: str) -> bool:
    plain = ".".join(split_path(path))
    return key == plain or key.startswith((f"{plain}.", f"{plain} ")) or (bool(key) and plain.startswith(f"{key}."))
