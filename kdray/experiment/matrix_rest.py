"""What a `matrix:` says beside its axes: the cells it leaves out, its baseline, and published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdray.errors import ConfigError, nearest
from kdray.experiment.explain import Place, show
from kdray.experiment.matrix import SEED, Coordinates, Matrix, Published, Scalar, lies_at
from kdray.experiment.merge import merge
from kdray.experiment.origin import MATRIX

EXCLUDE, BASELINE, PUBLISHED = "exclude", "baseline", "published"
REST = (EXCLUDE, BASELINE, PUBLISHED)
NUMBERS = ("top1", "std", "seeds", "recipe", "source")

Values = dict[str, list[Scalar]]  # by axis


@dataclass(frozen=True)
class Checked:
    """The checked rest of a matrix."""

    excluded: Sequence[Mapping[str, Sequence[Scalar]]]
    baseline: Coordinates
    published: Sequence[Published]
    where: str

    def excludes(self, at: Coordinates) -> bool:
        """Whether the cell at `at` is left out."""
        return any(all(at[axis] in values for axis, values in one.items()) for one in self.excluded)

    def matrix(self, cells: Mapping[str, Coordinates]) -> Matrix:
        """The matrix of these cells.

        Raises:
            ConfigError: the baseline is in none of them, or a published number is of several rows.
        """
        if self.baseline and not any(lies_at(at, self.baseline) for at in cells.values()):
            raise ConfigError("exclude leaves no cell of the baseline", where=self.where, fix="Name another, or none")
        return Matrix(cells, self.baseline, tuple(self.published)).only(cells)


class Rest:
    """The rest as it was written, layer over layer, and where."""

    def __init__(self) -> None:
        self.view: dict[str, Any] = {}
        self.places: dict[str, Place] = {}

    def lay(self, name: str, value: Any, place: Place) -> None:
        """Lay `value` over the key `name`: maps merge, lists replace."""
        self.put(name, merge(self.view.get(name), value, (MATRIX, name)), place)

    def put(self, name: str, value: Any, place: Place) -> None:
        """Replace the key `name`."""
        self.view[name], self.places[name] = value, place

    def check(self, values: Values, known: Values) -> Checked:
        """Check against the axes' `values`; `known` also has those that were taken away, which are of no cell.

        Raises:
            ConfigError: an axis or a value that is not there, or a number that is none.
        """
        excluded = [self._exclude(one, at, known) for one, at in self._listed(EXCLUDE)]
        baseline = self._baseline(values)
        published = [
            number
            for one, at in self._listed(PUBLISHED)
            if (number := self._published(one, at, values, known)) is not None
        ]
        return Checked(excluded, baseline, published, self._where(BASELINE))

    def _where(self, name: str, *inner: str | int) -> str:
        place = self.places.get(name, lambda _: "")
        return f"{place((MATRIX, name, *inner))}: {'.'.join(map(str, (MATRIX, name, *inner)))}"

    def _listed(self, name: str) -> list[tuple[dict[str, Any], tuple[str, int]]]:
        listed = self.view.get(name)
        if listed is None:
            return []
        if not isinstance(listed, list):
            fix = f"Write {name}: [{{AXIS: VALUE, ...}}]"
            raise ConfigError(f"wants a list, but {show(listed)} stands there", where=self._where(name), fix=fix)
        for number, one in enumerate(listed):
            if not isinstance(one, dict) or not one:
                fix = "Write {AXIS: VALUE, ...}"
                raise ConfigError(f"wants a map, but has {show(one)}", where=self._where(name, number), fix=fix)
        return [(one, (name, number)) for number, one in enumerate(listed)]

    def _exclude(self, one: dict[str, Any], at: tuple[str, int], known: Values) -> dict[str, list[Scalar]]:
        """Values of each axis in `one`, which may be a list of them."""
        found = {}
        for axis, value in one.items():
            where = self._where(*at, axis)
            values = value if isinstance(value, list) else [value]
            found[axis] = [self._value(axis, each, known, known, where) for each in values]
        return found

    def _baseline(self, values: Values) -> dict[str, Scalar]:
        given = self.view.get(BASELINE)
        if given is None:
            return {}
        where = self._where(BASELINE)
        if not isinstance(given, dict):
            fix = "Write baseline: {method: NAME}"
            raise ConfigError(f"wants a map, but {show(given)} stands there", where=where, fix=fix)
        if SEED in given:
            fix = f"Name a value of {_names(_rows(values))}"
            raise ConfigError("seeds are what is averaged over", where=self._where(BASELINE, SEED), fix=fix)
        return {
            axis: self._value(axis, value, values, values, self._where(BASELINE, axis))
            for axis, value in given.items()
            if value is not None
        }

    def _published(self, one: dict[str, Any], at: tuple[str, int], values: Values, known: Values) -> Published | None:
        rows = _rows(known)
        for key in one:
            if key == SEED and SEED in known:
                problem = "a published number stands beside a row, which is over all seeds"
                raise ConfigError(problem, where=self._where(*at, key), fix="Remove it; seeds: 3 says how many")
            if key not in rows and key not in NUMBERS:
                hint = nearest(key, (*rows, *NUMBERS))
                fix = f"It takes the axes {_names(rows)} and {', '.join(NUMBERS)}"
                raise ConfigError(f"unknown key {key!r}{hint}", where=self._where(*at, key), fix=fix)
        for key in ("top1", "recipe", "source"):
            if one.get(key) is None:
                fix = "Write top1: 70.66, recipe: how it was trained and chosen, source: where it stands"
                raise ConfigError("is missing", where=self._where(*at, key), fix=fix)
        coordinates: dict[str, Scalar] = {}
        for axis in rows:
            if axis in one:
                coordinates[axis] = self._value(axis, one[axis], known, known, self._where(*at, axis))
            elif len(values[axis]) > 1:
                fix = f"Say which: {_names(values[axis])}"
                raise ConfigError("is missing: the row is not clear", where=self._where(*at, axis), fix=fix)
        if any(value not in values[axis] for axis, value in coordinates.items()):
            return None
        return Published(
            coordinates,
            self._number(one, at, "top1"),
            self._text(one, at, "recipe"),
            self._text(one, at, "source"),
            self._number(one, at, "std") if one.get("std") is not None else None,
            self._count(one, at) if one.get("seeds") is not None else None,
        )

    def _value(self, axis: str, value: Any, choices: Values, axes: Values, where: str) -> Scalar:
        if axis not in axes:
            fix = f"Axes: {_names(axes)}"
            raise ConfigError(f"no axis {axis!r}{nearest(axis, axes)}", where=where, fix=fix)
        there = choices[axis]
        # 1 == True in Python, but they are two values.
        found = next(
            (each for each in there if each == value and isinstance(each, bool) == isinstance(value, bool)), ...
        )
        if found is ...:
            hint = nearest(str(value), map(str, there))
            raise ConfigError(f"no value {show(value)}{hint}", where=where, fix=f"Values: {_names(there)}")
        return found  # type: ignore[return-value]

    def _number(self, one: dict[str, Any], at: tuple[str, int], key: str) -> float:
        value = one[key]
        least = 1.0 if key == "top1" else 0.0
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= 100:
            fix = "Write the accuracy in percent, such as 70.66" if key == "top1" else "Write it in percent"
            raise ConfigError(f"wants percent, but {show(value)} stands there", where=self._where(*at, key), fix=fix)
        return float(value)

    def _count(self, one: dict[str, Any], at: tuple[str, int]) -> int:
        value = one["seeds"]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            problem = f"wants a whole number, but {show(value)} stands there"
            raise ConfigError(problem, where=self._where(*at, "seeds"), fix="Write how many runs they averaged")
        return value

    def _text(self, one: dict[str, Any], at: tuple[str, int], key: str) -> str:
        value = one[key]
        if not isinstance(value, str) or not value.strip():
            problem = f"wants text, but {show(value)} stands there"
            raise ConfigError(problem, where=self._where(*at, key), fix="Write it in quotes")
        return value


def _rows(values: Values) -> Values:
    return {axis: each for axis, each in values.items() if axis != SEED}


def _names(values: Any) -> str:
    return ", ".join(str(value) for value in values)
