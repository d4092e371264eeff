"""A matrix as `to_yaml` writes it: `variants` of whole experiments, and in `matrix.cells` the coordinates of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdray.errors import ConfigError
from kdray.experiment.explain import show
from kdray.experiment.matrix import Matrix, Scalar
from kdray.experiment.matrix_rest import REST, Rest, Values
from kdray.experiment.origin import CELLS, MATRIX
from kdray.experiment.sets import Set
from kdray.experiment.variants import Layer, Trees


def is_written_out(layers: Sequence[Layer]) -> bool:
    """Whether any of the `matrix:` is of this form."""
    return any(isinstance(layer.value, dict) and CELLS in layer.value for layer in layers)


def read_matrix(layers: Sequence[Layer], sets: Sequence[Set], variants: Trees) -> Matrix:
    """Return the matrix whose cells are `variants`.

    Raises:
        ConfigError: cells that are not the variants, or anything laid over them.
    """
    first, *over = [layer for layer in layers if layer.value is not None]
    for where in (*(layer.place((MATRIX,)) for layer in over), *(item.source for item in sets)):
        problem = "nothing can be laid over a matrix that is written out cell by cell"
        raise ConfigError(problem, where=f"{where}: {MATRIX}", fix="Change the file that it was made from")
    cells = first.value[CELLS]
    where = f"{first.place((MATRIX, CELLS))}: {MATRIX}.{CELLS}"
    fix = "Write CELL: {AXIS: VALUE, ...} for each of the variants, or axes instead of cells"
    if not isinstance(cells, dict) or not all(isinstance(at, dict) and at for at in cells.values()):
        raise ConfigError(f"wants a map of maps, but {show(cells)} stands there", where=where, fix=fix)
    if list(cells) != list(variants):
        raise ConfigError("does not name just the variants, in their order", where=where, fix=fix)
    axes = list(next(iter(cells.values())))
    rest = Rest()
    for key, value in first.value.items():
        if key in REST:
            rest.put(key, value, first.place)
        elif key != CELLS:
            raise ConfigError(f"the axis {key!r} stands beside cells", where=f"{where}", fix="Remove one of them")
    values: Values = {axis: [] for axis in axes}
    for name, at in cells.items():
        if list(at) != axes or any(isinstance(value, dict | list) for value in at.values()):
            raise ConfigError(f"wants a value of {', '.join(axes)}", where=f"{where}.{name}", fix=fix)
        for axis, value in at.items():
            _add(values[axis], value)
    return rest.check(values, values).matrix(cells)


def _add(values: list[Scalar], value: Any) -> None:
    if value not in values:
        values.append(value)
