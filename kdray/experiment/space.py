"""The space of a search: parameters with their distributions, and groups whose alternatives have spaces of their own.

A parameter's name is the dotted path that it sets; a group's is a word. Each setting of a search is a map of names to
values: those of one branch, the group's own value being the name of the alternative taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from kdray.errors import ConfigError, nearest
from kdray.experiment.distributions import Choice, Distribution, Integer, Uniform, Value, written
from kdray.experiment.paths import split_path

Setting: TypeAlias = tuple[str, bool]  # a path, and whether null takes away what stands there

__all__ = ["Alternative", "Choice", "Distribution", "Group", "Integer", "Space", "Uniform", "Value"]


@dataclass(frozen=True)
class Space:
    """`parameters` by the path that each sets, and `groups`: what is drawn for every trial.

    Nothing is set twice on one branch. Where two alternatives search the same path, both do so with the same kind of
    distribution, and among the same choices.
    """

    parameters: Mapping[str, Distribution] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        """Raises ConfigError, about the path or group that it names as `where`."""
        object.__setattr__(self, "groups", tuple(self.groups))
        beside: list[Setting] = []
        for path in self.parameters:
            one = (path, False)
            _check_meeting(one, beside)
            beside.append(one)
        for group in self.groups:
            inside = list(group.settings())
            for one in inside:
                _check_meeting(one, beside)
            beside += inside
        kinds: dict[str, Distribution] = {}
        for name, distribution in self.everything():
            _check_kinds(name, kinds.setdefault(name, distribution), distribution)
        names = [group.name for group in self.all_groups()]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two groups are called {name}", where=name, fix="Give each a name of its own")

    def all_groups(self) -> Iterator[Group]:
        """Its groups, each before those inside it."""
        for group in self.groups:
            yield group
            for alternative in group.alternatives.values():
                yield from alternative.space.all_groups()

    def names(self) -> list[str]:
        """Every name that a parameter of any branch can have, groups included."""
        return list(dict.fromkeys(name for name, _ in self.everything()))

    def texts(self) -> dict[str, str]:
        """Each name's distribution as text; of a path that alternatives search differently, with " or " between."""
        texts: dict[str, list[str]] = {}
        for name, distribution in self.everything():
            found = texts.setdefault(name, [])
            if distribution.text() not in found:
                found.append(distribution.text())
        return {name: " or ".join(found) for name, found in texts.items()}

    def size(self) -> int | None:
        """How many settings there are; None where they are not countable."""
        total = 1
        for one in self.parameters.values():
            points = one.points()
            if points is None:
                return None
            total *= len(points)
        for group in self.groups:
            sizes = [alternative.space.size() for alternative in group.alternatives.values()]
            if None in sizes:
                return None
            total *= sum(size for size in sizes if size is not None)
        return total

    def walk(self, choose: Callable[[str, Distribution], Value]) -> dict[str, Value]:
        """The parameters of one branch: `choose` is asked for each value, for a group's before what is inside it."""
        values: dict[str, Value] = {name: choose(name, one) for name, one in self.parameters.items()}
        for group in self.groups:
            taken = values[group.name] = choose(group.name, group.choice)
            values |= group.alternatives[str(taken)].space.walk(choose)
        return values

    def validate(self, parameters: Mapping[str, Any]) -> None:
        """Check that these are the parameters of one branch.

        Raises:
            ConfigError: one that is missing, is not of this branch, or is out of its distribution.
        """

        def given(name: str, distribution: Distribution) -> Value:
            if name not in parameters:
                raise ConfigError("has no value", where=name, fix=f"Give one of {distribution.text()}")
            value = parameters[name]
            if not distribution.contains(value):
                hint = nearest(value, map(str, distribution.points() or ())) if isinstance(value, str) else ""
                problem = f"{written(value)} is not in {distribution.text()}{hint}"
                raise ConfigError(problem, where=name, fix="Give a value of the search space")
            return value

        branch = self.walk(given)
        for name in parameters:
            if name not in branch:
                known = name in self.names()
                problem = "belongs to another alternative" if known else f"is not searched{nearest(name, branch)}"
                raise ConfigError(problem, where=name, fix=f"Here are {', '.join(branch) or 'no parameters'}")

    def changes(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What these parameters set, by path: of a group the fixed values of its alternative, then what is inside.

        Raises:
            ConfigError: as `validate`.
        """
        self.validate(parameters)
        return self._changes(parameters)

    def _changes(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        changes = {path: parameters[path] for path in self.parameters}
        for group in self.groups:
            alternative = group.alternatives[parameters[group.name]]
            changes |= alternative.fixed | alternative.space._changes(parameters)
        return changes

    def settings(self) -> Iterator[Setting]:
        """Every path that it can set, and whether it is taken away."""
        yield from ((path, False) for path in self.parameters)
        for group in self.groups:
            yield from group.settings()

    def everything(self) -> Iterator[tuple[str, Distribution]]:
        """Every name with its distribution, of all branches: a path that two alternatives search comes twice."""
        yield from self.parameters.items()
        for group in self.groups:
            yield group.name, group.choice
            for alternative in group.alternatives.values():
                yield from alternative.space.everything()


@dataclass(frozen=True)
class Alternative:
    """What one way of a group sets: `fixed` values by path (null takes an objective away), and a `space` of its own."""

    fixed: dict[str, Any] = field(default_factory=dict)
    space: Space = field(default_factory=Space)

    def __post_init__(self) -> None:
        """Raises ConfigError: a path is set twice."""
        beside: list[Setting] = []
        for path, value in self.fixed.items():
            one = (path, value is None)
            _check_meeting(one, beside)
            beside.append(one)
        for one in self.space.settings():
            _check_meeting(one, beside)

    def settings(self) -> Iterator[Setting]:
        """Every path that it can set."""
        yield from ((path, value is None) for path, value in self.fixed.items())
        yield from self.space.settings()


@dataclass(frozen=True)
class Group:
    """A choice between named alternatives."""

    name: str
    alternatives: Mapping[str, Alternative]

    def __post_init__(self) -> None:
        """Raises ConfigError: there is no alternative."""
        if not self.alternatives:
            raise ConfigError("is a group without alternatives", fix="Write NAME: {PATH: VALUE} under it")

    @property
    def choice(self) -> Choice:
        """Its value: the name of an alternative."""
        return Choice(tuple(self.alternatives))

    def settings(self) -> Iterator[Setting]:
        """Every path that one of its alternatives can set."""
        for alternative in self.alternatives.values():
            yield from alternative.settings()


def _check_meeting(one: Setting, beside: list[Setting]) -> None:
    """Raise ConfigError where a path is set together with one of `beside` that is the same, or takes it away."""
    path, gone = one
    for other, other_gone in beside:
        mine, its = ".".join(split_path(path)), ".".join(split_path(other))
        if mine == its:
            raise ConfigError("is given twice on one branch", where=path, fix="Keep one of them")
        lost = path if other_gone and mine.startswith(f"{its}.") else None
        lost = other if gone and its.startswith(f"{mine}.") else lost
        if lost is not None:
            whole = other if lost == path else path
            fix = f"Move {lost} into the alternatives that keep {whole}"
            raise ConfigError(f"is set where {whole} is taken away", where=lost, fix=fix)


def _check_kinds(name: str, one: Distribution, other: Distribution) -> None:
    """Raise ConfigError where no searcher could take `one` and `other` for the same parameter."""
    if isinstance(one, Choice) or isinstance(other, Choice):
        same = one == other
    else:
        same = type(one) is type(other) and one.log == other.log
    if not same:
        problem = f"is {one.text()} in one alternative and {other.text()} in another"
        fix = "Search a path with one kind of distribution, and one list of choices, in all alternatives"
        raise ConfigError(problem, where=name, fix=fix)
