"""The default space of a search: that of every objective of the experiment, as its method has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdray.errors import ConfigError
from kdray.experiment.schema import Experiment
from kdray.experiment.space import Distribution, Space
from kdray.experiment.space_text import read_distribution
from kdray.objectives.balance import resolve
from kdray.objectives.leaves import leaves
from kdray.objectives.registry import normalise, parse


def default_space(objectives: Mapping[str, Any], where: str = "objectives") -> Space:
    """What is searched of these objectives: of each of weight above 0, by absolute paths (`objectives.kd.weight`).

    Raises:
        ConfigError: objectives that do not parse, or two that share a path; a method whose space does not parse.
    """
    parameters: dict[str, Distribution] = {}
    for entry in parse(objectives, where):
        if entry.options.weight == 0:
            continue
        for path, text in entry.objective.searched(entry.options).items():
            name = f"{where}.{entry.name}.{path}"
            if name in parameters:
                fix = "Give one of them another name: NAME: {type: METHOD}"
                raise ConfigError("is a path of two objectives", where=name, fix=fix)
            try:
                parameters[name] = read_distribution(text)
            except ConfigError as error:
                problem = f"the search_space of {entry.objective.__qualname__} says {text!r}: {error.problem}"
                raise ConfigError(problem, where=name, fix=error.fix) from None
    return Space(parameters)


def balanced_paths(experiment: Experiment) -> frozenset[str]:
    """The weights that `balance:` sets: to search them would be to search what is written over."""
    if experiment.balance is None:
        return frozenset()
    resolved = resolve(experiment.balance, normalise(experiment.objectives))
    known = leaves(experiment.objectives)
    shares = (resolved.shares or {}) if resolved is not None else {}
    return frozenset(".".join(("objectives", *known[name].keys, "weight")) for name in shares)


def _default_of(experiment: Experiment) -> Space:
    """Of the student's objectives or, without one, of the teacher's; not what `balance:` sets."""
    if experiment.student is None and experiment.teacher is not None:
        return default_space(experiment.teacher.objectives, "teacher.objectives")
    space = default_space(experiment.objectives) if experiment.objectives else Space()
    taken = balanced_paths(experiment)
    return Space({name: one for name, one in space.parameters.items() if name not in taken}, space.groups)


def space_of(experiment: Experiment) -> Space:
    """The space that `experiment` is searched in: the one written, or the default one.

    Raises:
        ConfigError: there is no search, nothing to search, or the searcher or scheduler cannot work on the space.
    """
    search = experiment.search
    if search is None:
        raise ConfigError("there is no search", where="search", fix="Add search: {space: default}")
    space = search.own_space
    if space is None:
        space = _default_of(experiment)
        found = search.misfit(space)
        if found is not None:
            raise ConfigError(found.problem, where=".".join(("search", *found.keys)), fix=found.fix)
    if not space.names():
        problem = "there is nothing to search" + (": no objective has a space" if search.own_space is None else "")
        fix = "Write space: {train.optimizer.lr: loguniform(0.01, 0.3)}, or the paths that you mean"
        raise ConfigError(problem, where="search.space", fix=fix)
    return space
