"""`matrix:` of a file: axes of values, each a part of an experiment, and a whole experiment for every combination."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from kdray.errors import ConfigError, nearest
from kdray.experiment.comparison import VARIANT_KEYS
from kdray.experiment.explain import Place, show
from kdray.experiment.lookup import places_of
from kdray.experiment.matrix import Matrix, Scalar
from kdray.experiment.matrix_rest import NUMBERS, REST, Rest, Values
from kdray.experiment.merge import merge, override, set_path
from kdray.experiment.origin import CELLS, MATRIX, VARIANTS, Cells
from kdray.experiment.paths import resolve, split_path
from kdray.experiment.sets import Set
from kdray.experiment.variants import NAME, Layer, Trees, check_key

Tree = dict[str, Any]
Change = Callable[[Tree], Tree]

_AXIS = "Write NAME: {objectives: {...}} for each value under it, or a list of values of the key of that name"


@dataclass
class Axis:
    """Values of one axis, with what each changes, one after the other.

    `path` is set where it is a list: the dotted path of the key whose values stand in it.
    """

    name: str
    path: str | None
    values: dict[Scalar, list[Change]]

    def label(self, value: Scalar) -> str:
        """The part of a cell's name that tells `value`: seed0, epochs240, precision-bf16, or the value's own name."""
        if self.path is None:
            return str(value)
        text = re.sub(r"[^A-Za-z0-9._-]", "-", show(value).strip('"'))
        return split_path(self.path)[-1] + ("" if text[0].isdigit() else "-") + text


@dataclass(frozen=True)
class Expanded:
    """Whole experiments by cell, not yet checked, their coordinates, and where each key of theirs may stand."""

    trees: Trees
    matrix: Matrix
    cells: Cells
    where: str


def expand_matrix(top: Tree, layers: Sequence[Layer], sets: Sequence[Set]) -> Expanded | None:
    """Return a tree for every cell of the `matrix:` of all `layers`, the bases' first, with `sets` applied.

    Maps merge and lists replace; a list of names over a map selects from it. A cell is `top` with its values laid over
    it in the order of the axes, as a variant is, so a later axis wins. None where there is no matrix.

    Raises:
        ConfigError: what is no axis or no value, or a cell that has no name of its own.
    """
    grid = _Grid(top)
    for layer in layers:
        grid.lay(layer)
    for item in sets:
        grid.set(item)
    if not grid.given:
        return None
    if top.get("search") is not None:
        fix = "Search in a file of its own, or remove one of them"
        raise ConfigError("stands beside search", where=f"{grid.place((MATRIX,))}: {MATRIX}", fix=fix)
    return grid.expanded()


class _Grid:
    def __init__(self, top: Tree) -> None:
        self.top = top
        self.clear()

    def clear(self) -> None:
        self.given = False
        self.place: Place = lambda _: ""
        self.axes: dict[str, Axis] = {}
        self.known: Values = {}  # values that any layer has, also those that another takes away
        self.rest = Rest()

    def lay(self, layer: Layer) -> None:
        if layer.value is None:
            return
        self.given, self.place = True, layer.place
        if not isinstance(layer.value, dict):
            raise _no_map(layer.value, f"{layer.place((MATRIX,))}: {MATRIX}", "Write AXIS: {NAME: {...}} under it")
        for name, value in layer.value.items():
            if name in REST:
                self.rest.lay(name, value, layer.place)
            else:
                self.axis(name, value, layer.place)

    def axis(self, name: str, value: Any, place: Place) -> None:
        """Lay `value` over the axis `name`."""
        where = f"{place((MATRIX, name))}: {MATRIX}.{name}"
        if name == CELLS:
            problem = "is how a matrix is written down after its expansion, beside variants"
            raise ConfigError(problem, where=where, fix="Name the axis otherwise")
        if value is None:
            self.take_away(self.axes, name, where, "axis")
        elif isinstance(value, list):
            self.listed(name, value, where)
        elif isinstance(value, dict):
            if name in NUMBERS or not NAME.fullmatch(name):
                fix = f"Write letters, digits, dots, dashes or underscores, and none of {', '.join(NUMBERS)}"
                raise ConfigError(f"{show(name)} cannot be the name of an axis", where=where, fix=fix)
            axis = self.axes.get(name)
            if axis is None or axis.path is not None:
                axis = self.axes[name] = Axis(name, None, {})
            for key, part in value.items():
                self.value(axis, key, part, place)
        else:
            hint = nearest(name, REST)
            raise ConfigError(f"is no axis, but {show(value)}{hint}", where=where, fix=_AXIS)

    def value(self, axis: Axis, key: str, part: Any, place: Place) -> None:
        """Lay `part` over the value `key` of a map's axis."""
        path = f"{MATRIX}.{axis.name}.{key}"
        where = f"{place((MATRIX, axis.name, key))}: {path}"
        if part is None:
            self.take_away(axis.values, key, where, "value")
            return
        if not NAME.fullmatch(key):
            fix = "Write one of 1 to 60 letters, digits, dots, dashes or underscores"
            raise ConfigError(f"{show(key)} cannot be a name", where=where, fix=fix)
        if not isinstance(part, dict):
            hint = nearest(axis.name, REST)
            raise _no_map(part, where, f"A value takes {', '.join(VARIANT_KEYS)}", hint)
        for inner in part:
            check_key(path, inner, place((MATRIX, axis.name, key, inner)), "cell")
        axis.values.setdefault(key, []).append(lambda tree: merge(tree, part))
        self.known.setdefault(axis.name, []).append(key)

    def listed(self, name: str, values: list[Any], where: str) -> None:
        """Values of the key `name`, or names of a map's axis to keep."""
        for value in values:
            if isinstance(value, dict | list):
                hint = nearest(name, REST)
                raise ConfigError(
                    f"wants plain values in its list, but has {show(value)}{hint}", where=where, fix=_AXIS
                )
            if values.count(value) > 1:
                raise ConfigError(f"has {show(value)} twice", where=where, fix="Keep one of them")
        under = self.axes.get(name)
        if under is not None and under.path is None:
            for value in values:
                if value not in under.values:
                    there = f"Values: {', '.join(map(str, under.values))}"
                    problem = f"no value {show(value)}{nearest(str(value), map(str, under.values))} to select"
                    raise ConfigError(problem, where=where, fix=there)
            self.axes[name] = Axis(name, None, {value: under.values[value] for value in values})
            return
        first = split_path(name)[0]
        if first not in VARIANT_KEYS:
            paths = [path for path in places_of(name) if split_path(path)[0] in VARIANT_KEYS]
            hint = f" (did you mean {paths[0]!r}?)" if paths else nearest(first, (*VARIANT_KEYS, *REST))
            problem = f"a list is of values of a key, and no cell has a key {name!r}{hint}"
            raise ConfigError(problem, where=where, fix=_AXIS)

        def change(value: Scalar) -> Change:
            def apply(tree: Tree) -> Tree:
                try:
                    return override(tree, resolve(tree, name), value)
                except ConfigError as error:
                    raise ConfigError(error.problem, where=where, fix=error.fix) from None

            return apply

        self.axes[name] = Axis(name, name, {value: [change(value)] for value in values})
        self.known.setdefault(name, []).extend(values)

    def take_away(self, there: dict[Any, Any], name: str, where: str, what: str) -> None:
        if there.pop(name, None) is None:
            problem = f"there is no {what} {name!r} to take away{nearest(name, map(str, there))}"
            raise ConfigError(problem, where=where, fix=f"There is {', '.join(map(str, there)) or 'none'}")

    def set(self, item: Set) -> None:
        """Apply a `--set matrix...`."""
        value = item.document.value
        keys = item.resolve({MATRIX: {**{name: self.view(axis) for name, axis in self.axes.items()}, **self.rest.view}})
        place: Place = lambda _: item.source  # noqa: E731 — a Place
        if len(keys) == 1:
            self.clear()
            self.lay(Layer(value, place))
            return
        self.given, self.place = True, place
        name = str(keys[1])
        if name in REST:
            with item.named():
                whole = set_path(self.rest.view, keys[1:], value)[name] if len(keys) > 2 else value
            self.rest.put(name, whole, place)
            return
        if name not in self.axes and isinstance(value, list):  # a new axis, whose name is a path
            name = ".".join(map(str, keys[1:]))
            item.keys = keys = (MATRIX, name)
        if len(keys) == 2:
            if isinstance(value, dict):
                self.axes[name] = Axis(name, None, {})
            self.axis(name, value, place)
            return
        axis = self.axes.get(name)
        if axis is None or axis.path is not None:
            fix = f"Set the whole list: --set 'matrix.{name}=[...]'" if axis else _axes(self.axes)
            problem = "a list has no parts to set" if axis else f"no axis {name!r}{nearest(name, self.axes)}"
            raise ConfigError(problem, where=item.source, fix=fix)
        key = str(keys[2])
        if len(keys) == 3:
            if value is not None:
                axis.values[key] = []
            self.value(axis, key, value, place)
            return
        if key not in axis.values:
            there = f"Values: {', '.join(map(str, axis.values))}"
            raise ConfigError(f"no value {key!r}{nearest(key, map(str, axis.values))}", where=item.source, fix=there)
        check_key(f"{MATRIX}.{name}.{key}", keys[3], item.source, "cell")
        inner = keys[3:]

        def apply(tree: Tree) -> Tree:
            with item.named():
                return override(tree, inner, value)

        axis.values[key] = [*axis.values[key], apply]

    def view(self, axis: Axis) -> Any:
        """What a path into `axis` resolves in: whole experiments, so that names with dots are found."""
        if axis.path is not None:
            return list(axis.values)
        return {key: _applied(self.top, changes) for key, changes in axis.values.items()}

    def expanded(self) -> Expanded:
        place = self.place
        where = f"{place((MATRIX,))}: {MATRIX}"
        empty = next((name for name, axis in self.axes.items() if not axis.values), None)
        if empty is not None or not self.axes:
            problem = "has no axis" if empty is None else f"the axis {empty!r} has no values"
            raise ConfigError(problem, where=where, fix="Write method: {NAME: {...}}, seed: [0, 1, 2]")
        values: Values = {name: list(axis.values) for name, axis in self.axes.items()}
        checked = self.rest.check(values, self.known)
        trees: Trees = {}
        coordinates: dict[str, dict[str, Scalar]] = {}
        cells: Cells = {}
        for combination in product(*values.values()):
            at = dict(zip(values, combination, strict=True))
            if checked.excludes(at):
                continue
            name = ".".join(axis.label(at[axis.name]) for axis in self.axes.values())
            if not NAME.fullmatch(name) or name in trees:
                said = "is the name of two cells" if name in trees else "is no name of 1 to 60 letters"
                raise ConfigError(f"{name!r} {said}", where=where, fix="Rename values of an axis")
            tree = self.top
            for axis in self.axes.values():
                tree = _applied(tree, axis.values[at[axis.name]])
            trees[name], coordinates[name] = tree, at
            cells[name] = [self.written(axis, at[axis.name]) for axis in self.axes.values()]
        if not trees:
            raise ConfigError("exclude leaves no cell", where=where, fix="Exclude less")
        return Expanded(trees, checked.matrix(coordinates), cells, place((MATRIX,)))

    def written(self, axis: Axis, value: Scalar) -> tuple[tuple[str | int, ...], tuple[str | int, ...]]:
        """Where the keys of `value` stand in the file, and the path in an experiment that this gives."""
        if axis.path is None:
            return (MATRIX, axis.name, str(value)), ()
        index = list(axis.values).index(value)
        return (MATRIX, axis.name, index), resolve(_applied(self.top, axis.values[value]), axis.path)


def refuse_both(where: str) -> ConfigError:
    """The error of a file with a matrix and variants."""
    fix = f"Make an axis of the {VARIANTS}, or remove one of them"
    return ConfigError(f"stands beside {VARIANTS}", where=f"{where}: {MATRIX}", fix=fix)


def _applied(tree: Tree, changes: Sequence[Change]) -> Tree:
    for change in changes:
        tree = change(tree)
    return tree


def _axes(axes: dict[str, Axis]) -> str:
    return f"Axes: {', '.join(axes)}" if axes else "There are no axes"


def _no_map(value: Any, where: str, fix: str, hint: str = "") -> ConfigError:
    return ConfigError(f"wants a map, but {show(value)} stands there{hint}", where=where, fix=fix)
