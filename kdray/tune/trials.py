"""A trial: one point of a search, or one cell of a matrix, as plain JSON values. What reports and journals read.

`state` is `waiting` (not begun, or interrupted), `running`, `done`, `stopped` (by the scheduler) or `failed`.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdray.experiment import phases_of

Trial = dict[str, Any]
Row = Mapping[str, Any]

ENDED = ("done", "stopped", "failed")


@dataclass(frozen=True)
class Goal:
    """What makes a trial good: the best value of `metric`, a column of its epochs' rows, by `mode` (max, min).

    Only what is reached within `epochs`, or within `seconds` of training, counts, where they are given.
    """

    metric: str
    mode: str = "max"
    epochs: int | None = None
    seconds: float | None = None

    def better(self, one: float, other: float) -> bool:
        """Whether `one` beats `other`."""
        return one > other if self.mode == "max" else one < other

    def counted(self, history: Sequence[Row]) -> list[Row]:
        """The rows of `history` that are within the budget."""
        rows: list[Row] = []
        spent = 0.0
        for row in history:
            spent += float(row.get("seconds", 0.0))
            over = self.seconds is not None and spent > self.seconds and rows
            if over or (self.epochs is not None and int(row["epoch"]) > self.epochs):
                break
            rows.append(row)
        return rows

    def spent(self, history: Sequence[Row]) -> bool:
        """Whether another epoch, as long as the mean one so far, would be over the budget."""
        if not history:
            return False
        if self.epochs is not None and len(history) >= self.epochs:
            return True
        if self.seconds is None:
            return False
        used = sum(float(row.get("seconds", 0.0)) for row in history)
        return used + used / len(history) > self.seconds

    def best(self, history: Sequence[Row]) -> tuple[float, int] | None:
        """Best value and its epoch; None where no row has a finite one."""
        best: tuple[float, int] | None = None
        for row in self.counted(history):
            value = row.get(self.metric)
            if value is None or not math.isfinite(value):
                continue
            if best is None or self.better(value, best[0]):
                best = float(value), int(row["epoch"])
        return best


def new_trial(number: int, parameters: Mapping[str, Any], changes: Mapping[str, Any]) -> Trial:
    """A trial that has not begun."""
    return {
        "number": number,
        "parameters": dict(parameters),
        "changes": dict(changes),
        "state": "waiting",
        "history": [],
        "value": None,
        "best_epoch": None,
        "epochs": 0,
        "wall_s": 0.0,
        "accelerators": 0.0,
        "attempts": 0,
        "error": None,
        "artifact": None,
        "started": None,
        "finished": None,
        "lineage": [],
    }


def take_rows(trial: Trial, rows: Iterable[Row], goal: Goal) -> None:
    """Lay `rows` over the trial's history by epoch, and judge it anew.

    A process that went on from an older checkpoint tells of some epochs again: what it says now is what counts.
    """
    known = {int(row["epoch"]): dict(row) for row in trial["history"]}
    known |= {int(row["epoch"]): {key: _plain(value) for key, value in row.items()} for row in rows}
    trial["history"] = [known[epoch] for epoch in sorted(known)]
    trial["epochs"] = max(known, default=0)
    best = goal.best(trial["history"])
    trial["value"], trial["best_epoch"] = best if best is not None else (None, None)


def best_trial(trials: Iterable[Trial], goal: Goal, states: Sequence[str] = ("done",)) -> Trial | None:
    """The best of those that ended in one of `states`; of equal ones the first. None where none has a value."""
    best: Trial | None = None
    for trial in sorted(trials, key=lambda each: each["number"]):
        if trial["state"] not in states or trial["value"] is None:
            continue
        if best is None or goal.better(trial["value"], best["value"]):
            best = trial
    return best


def wall_of(trials: Iterable[Trial]) -> float:
    """Seconds in which any of `trials` ran, over all commands that had part in them."""
    spans = []
    for trial in trials:
        if trial["finished"] is not None:
            end = datetime.datetime.fromisoformat(trial["finished"]).timestamp()
            spans.append((end - trial["wall_s"], end))
    total, until = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def now() -> str:
    """Time of day in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def changes_of(trial: Trial) -> dict[str, Any]:
    """All that makes the experiment of `trial`: its parameters, and what its lineage changed on the way."""
    if not trial["lineage"]:
        return dict(trial["changes"])
    phases = phases_of(trial["lineage"])
    return dict(trial["lineage"][0]["changes"]) | ({"phases": phases} if phases else {})


def _plain(value: Any) -> Any:
    """A number that JSON can hold: what is not finite becomes None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
