"""The numbers of a matrix's table, from the run's record: a row for every combination of its axes but the seed.

Accuracies are top-1 in percent. A row is the mean over seeds of the cells that are done, with the sample standard
deviation; what is missing is told, and what several seeds share counts once. Differences to the baseline are paired:
of the same seeds. Their interval is the percentile bootstrap over seeds, their p that of the two-sided paired t-test,
also corrected by Holm's method over the comparisons of one table. Neither is given for fewer than `FEWEST` seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kdray.experiment.matrix import SEED, Coordinates, Published, Scalar, lies_at
from kdray.report.significance import Spread, bootstrap, holm, t_test

FEWEST = 3  # seeds, for an interval, a p or any order of methods
MEASURES = ("last", "best")  # test top-1 of the last epoch, and of the epoch that is best on validation


@dataclass(frozen=True)
class Against:
    """The paired difference of a row to its baseline, over the `n` seeds that both have.

    `low` and `high` bound the 95 % interval; `p_holm` is corrected over the table.
    """

    n: int
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class Row:
    """One row: its coordinates, how many results it has, and what they are.

    `missing` are the names of cells that are not done, with why. `seconds` are those of all accelerators of all seeds,
    for the row's own stage: a teacher's are not in it. `recipe` says in words how the row was trained.
    """

    at: dict[str, Scalar]
    n: int
    spreads: dict[str, Spread | None]
    epochs: int | None
    seconds: float
    devices: tuple[str, ...]
    recipe: str
    missing: dict[str, str]
    same: tuple[str, ...] = ()
    is_baseline: bool = False
    against: dict[str, Against] = field(default_factory=dict)
    published: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Group:
    """Rows of one table, which differ in the axes `named`; what they share is `at`."""

    at: dict[str, Scalar]
    named: tuple[str, ...]
    rows: list[Row]

    @property
    def few(self) -> bool:
        """Whether any row has too few seeds for a ranking."""
        return any(row.n < FEWEST for row in self.rows)


def groups(record: Mapping[str, Any]) -> list[Group]:
    """The tables of a run's record, in the order of its cells.

    Rows of one table differ in the axes of the baseline, or, without one, in the first axis.
    """
    cells: dict[str, dict[str, Scalar]] = record["matrix"]["cells"]
    baseline: dict[str, Scalar] = record["matrix"].get("baseline") or {}
    axes = [axis for axis in next(iter(cells.values())) if axis != SEED]
    named = tuple(axis for axis in axes if axis in baseline) or tuple(axes[:1])
    shared = [axis for axis in axes if axis not in named]
    stages = {stage["stage"]: stage for stage in record["stages"]}
    of_rows: dict[tuple[Scalar, ...], list[str]] = {}
    for name, at in cells.items():
        of_rows.setdefault(tuple(at[axis] for axis in axes), []).append(name)
    rows: dict[tuple[Scalar, ...], list[tuple[Row, _Results]]] = {}
    for values, names in of_rows.items():
        at = dict(zip(axes, values, strict=True))
        results = _Results(record, stages, {name: cells[name].get(SEED) for name in names})
        rows.setdefault(tuple(at[axis] for axis in shared), []).append((_row(record, at, results), results))
    if len(rows) == len(of_rows):  # tables of one row each compare nothing: all rows in one
        rows = {(): [pair for pairs in rows.values() for pair in pairs]}
        named, shared = tuple(axes), []
    return [
        Group(dict(zip(shared, values, strict=True)), named, _compared(pairs, baseline))
        for values, pairs in rows.items()
    ]


class _Results:
    """The finished stages of a row by seed, each once; what is missing, and what several seeds share."""

    def __init__(
        self, record: Mapping[str, Any], stages: Mapping[str, dict[str, Any]], names: Mapping[str, Scalar]
    ) -> None:
        self.by_seed: dict[Scalar, dict[str, Any]] = {}
        self.missing: dict[str, str] = {}
        self.same: list[str] = []
        failed: Mapping[str, str] = record.get("failed") or {}
        seen: set[str] = set()
        for name, seed in names.items():
            kinds = record["variants"][name]["stages"]
            wanted = kinds.get("student") or kinds["teacher"]
            if wanted not in stages:
                why = next((failed[each] for each in (wanted, *kinds.values()) if each in failed), "not run")
                self.missing[name] = why
            elif wanted in seen:
                self.same.append(name)
            else:
                seen.add(wanted)
                self.by_seed[seed] = stages[wanted]

    def values(self, measure: str) -> dict[Scalar, float]:
        """A number by seed, of those that have it."""
        found = {seed: _MEASURED[measure](stage) for seed, stage in self.by_seed.items()}
        return {seed: value for seed, value in found.items() if value is not None}


def _top1(result: Mapping[str, float] | None) -> float | None:
    return None if not result or "top1" not in result else 100 * result["top1"]


def _validation(stage: Mapping[str, Any]) -> float | None:
    if stage.get("validation"):
        return _top1(stage["validation"])
    best = stage.get("best_epoch")
    row: dict[str, float] = next((row for row in stage.get("history") or [] if row["epoch"] == best), {})
    return 100 * row["val/top1"] if "val/top1" in row else None


_MEASURED: dict[str, Any] = {
    "last": lambda stage: _top1(stage.get("test")),
    "best": lambda stage: _top1(stage.get("test_best")),
    "val": _validation,
    "best_epoch": lambda stage: stage.get("best_epoch"),
}


def _row(record: Mapping[str, Any], at: dict[str, Scalar], results: _Results) -> Row:
    stages = list(results.by_seed.values())
    epochs = {stage["epochs"] for stage in stages}
    return Row(
        at=at,
        n=len(stages),
        spreads={name: Spread.of(list(results.values(name).values())) for name in _MEASURED},
        epochs=max(epochs) if epochs else None,
        seconds=sum(accelerator_seconds(stage) for stage in stages),
        devices=tuple(sorted({stage["device"] for stage in stages})),
        recipe=" or ".join(sorted({recipe(stage) for stage in stages})),
        missing=results.missing,
        same=tuple(results.same),
        published=tuple(one for one in map(_published, record["matrix"].get("published") or []) if lies_at(at, one.at)),
    )


def accelerator_seconds(stage: Mapping[str, Any]) -> float:
    """Wall-clock seconds of a stage times the accelerators that it held: a share of a GPU is that share."""
    return stage["wall_s"] * (stage.get("accelerators") or max(1, stage.get("world_size") or 1))


def recipe(stage: Mapping[str, Any]) -> str:
    """How a stage was trained, in few words: epochs, batch, views, optimizer."""
    made_of = stage["made_of"]
    train = made_of.get("train")
    if train is None:
        return "evaluated only"
    optimizer = train["optimizer"]
    views = made_of["data"].get("views", 1)
    text = f"{train['epochs']} epoch{'s' * (train['epochs'] > 1)}, batch {train['batch']}"
    if views > 1:
        text += f", {views} views"
    return f"{text}, {optimizer.get('type', 'sgd')} {optimizer['lr']:g}"


def _published(one: Mapping[str, Any]) -> Published:
    known = ("top1", "recipe", "source", "std", "seeds")
    at = {axis: value for axis, value in one.items() if axis not in known}
    return Published(at, **{key: one[key] for key in known if key in one})


def _compared(pairs: Sequence[tuple[Row, _Results]], baseline: Coordinates) -> list[Row]:
    """The rows with their differences to the baseline, p corrected over all of them."""
    if not baseline:
        return [row for row, _ in pairs]
    rows = []
    for row, results in pairs:
        wanted = {**row.at, **baseline}
        if row.at == wanted:
            rows.append(replace(row, is_baseline=True))
            continue
        other = next((its for candidate, its in pairs if candidate.at == wanted), None)
        found = {} if other is None else {name: _paired(results, other, name) for name in MEASURES}
        rows.append(replace(row, against={name: one for name, one in found.items() if one is not None}))
    for measure in MEASURES:
        rows = _corrected(rows, measure)
    return rows


def _paired(results: _Results, other: _Results, measure: str) -> Against | None:
    ours, theirs = results.values(measure), other.values(measure)
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if not differences:
        return None
    n, mean = len(differences), statistics.fmean(differences)
    if n < FEWEST:
        return Against(n, mean)
    low, high = bootstrap(differences)
    return Against(n, mean, low, high, t_test(differences))


def _corrected(rows: list[Row], measure: str) -> list[Row]:
    ps = {at: row.against[measure].p for at, row in enumerate(rows) if measure in row.against}
    known = {at: p for at, p in ps.items() if p is not None}
    for at, p in zip(known, holm(list(known.values())), strict=True):
        against = replace(rows[at].against[measure], p_holm=p)
        rows[at] = replace(rows[at], against=rows[at].against | {measure: against})
    return rows
