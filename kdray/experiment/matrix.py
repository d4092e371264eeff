"""What a `matrix:` leaves beside its experiments: coordinates of each, what they are held against, papers' numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

Scalar = str | int | float | bool | None
Coordinates = Mapping[str, Scalar]

SEED = "seed"  # the axis of replicates: rows of a table are means over it


@dataclass(frozen=True)
class Published:
    """A number that somebody else published for one row (all axes but the seed): top-1 accuracy in percent.

    `std` is their standard deviation over `seeds` runs, where they give it.
    """

    at: Coordinates
    top1: float
    recipe: str
    source: str
    std: float | None = None
    seeds: int | None = None

    def plain(self) -> dict[str, Any]:
        """As in a file: the coordinates and the numbers in one map."""
        extra = {"std": self.std, "seeds": self.seeds}
        told = {"top1": self.top1, "recipe": self.recipe, "source": self.source}
        return {**self.at, **told, **{key: value for key, value in extra.items() if value is not None}}


@dataclass(frozen=True)
class Matrix:
    """Coordinates of every cell, by the name of its experiment; each has all axes, in the same order.

    `baseline` says which value of which axes the others are compared with; empty for none.
    """

    cells: Mapping[str, Coordinates]
    baseline: Coordinates
    published: tuple[Published, ...] = ()

    @property
    def axes(self) -> dict[str, list[Scalar]]:
        """The values of each axis that cells have."""
        names = next(iter(self.cells.values()), {})
        return {axis: list(dict.fromkeys(at[axis] for at in self.cells.values())) for axis in names}

    def only(self, names: Collection[str]) -> Matrix:
        """The cells of these names; a baseline and published numbers that are of none of them are left out."""
        cells = {name: at for name, at in self.cells.items() if name in names}
        baseline = self.baseline if any(lies_at(at, self.baseline) for at in cells.values()) else {}
        published = tuple(one for one in self.published if any(lies_at(at, one.at) for at in cells.values()))
        return Matrix(cells, baseline, published)

    def plain(self) -> dict[str, Any]:
        """Plain values that are read back, beside `variants` of the cells' names, to an equal matrix."""
        plain: dict[str, Any] = {"cells": {name: dict(at) for name, at in self.cells.items()}}
        if self.baseline:
            plain["baseline"] = dict(self.baseline)
        if self.published:
            plain["published"] = [one.plain() for one in self.published]
        return plain


def lies_at(at: Coordinates, part: Coordinates) -> bool:
    """Whether the coordinates `at` have the values of `part`."""
    return all(at[axis] == value for axis, value in part.items())
