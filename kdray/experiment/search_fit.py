"""Which spaces a searcher and a scheduler can work on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kdray.experiment.distributions import Choice
from kdray.experiment.paths import split_path
from kdray.experiment.space import Space

MAX_GRID = 10_000
MOVABLE = ("train.optimizer.lr", "train.optimizer.weight_decay")  # with objectives.*, what may change within a training


@dataclass(frozen=True)
class Misfit:
    """What does not go together, by its keys below `search`."""

    keys: tuple[str, ...]
    problem: str
    fix: str


def misfit(space: Space, searcher: str, scheduler: str, fixed: Iterable[str] = ()) -> Misfit | None:
    """Return why a `searcher` and a `scheduler` cannot search `space`, or None.

    `fixed` are the paths that a transfer sets: they cannot be searched.
    """
    taken = {".".join(split_path(path)) for path in fixed}
    for name in space.names():
        if name in taken:
            return Misfit(("space", name), "is searched, and set by transfer.set", "Keep one of them")
    by_searcher = {"grid": _not_a_grid, "cma_es": _not_for_cma_es, "gp": _not_for_gp}.get(searcher)
    found = by_searcher(space) if by_searcher else None
    return found or (_not_for_pbt(space) if scheduler == "pbt" else None)


def _not_a_grid(space: Space) -> Misfit | None:
    for name, one in space.everything():
        if one.points() is None:
            fix = "Give it a step, uniform(0, 1, 0.25), or a list of values, or search by tpe or random"
            return Misfit(("space", name), f"a grid cannot count the values of {one.text()}", fix)
    size = space.size() or 0
    if size > MAX_GRID:
        problem = f"a grid of this space has {size} points, of {MAX_GRID} at most"
        return Misfit(("searcher",), problem, "Give fewer values, or search by tpe or random")
    return None


def _not_for_cma_es(space: Space) -> Misfit | None:
    # Optuna's CmaEsSampler draws at random what is no number, and what is not in all trials.
    for group in space.groups:
        return Misfit(("searcher",), f"cma_es searches numbers alone, and {group.name} is a group", "Search by tpe")
    for name, one in space.parameters.items():
        if isinstance(one, Choice):
            fix = "Write it as int(...) or uniform(...), or search by tpe or gp"
            return Misfit(("searcher",), f"cma_es searches numbers alone, and {name} is {one.text()}", fix)
    return None


def _not_for_gp(space: Space) -> Misfit | None:
    # Optuna's GPSampler draws at random what is not in all trials.
    for group in space.groups:
        if any(alternative.space.names() for alternative in group.alternatives.values()):
            problem = f"gp searches what all trials have, and {group.name} has parameters of its alternatives"
            return Misfit(("searcher",), problem, "Search by tpe, or fix them in the alternatives")
    return None


def _not_for_pbt(space: Space) -> Misfit | None:
    for group in space.groups:
        problem = f"pbt changes parameters within a training, and {group.name} is a group"
        return Misfit(("scheduler",), problem, "Remove the group, or use asha")
    for name in space.parameters:
        path = ".".join(split_path(name))
        if not path.startswith("objectives.") and path not in MOVABLE:
            problem = f"pbt changes parameters within a training, and {name} holds for a whole one"
            return Misfit(("scheduler",), problem, f"Search objectives.*, {' and '.join(MOVABLE)} alone, or use asha")
    return None
