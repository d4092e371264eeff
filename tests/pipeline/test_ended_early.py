"""A listener ends a stage at the end of an epoch: nothing is left open or half written, and the stage goes on later."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from kdray.experiment import load_experiment
from kdray.pipeline.plan import make_plan
from kdray.train.worker import StageWorker
from tests.tiny import Lab

CHANGES: dict[str, Any] = {
    "teacher": None,
    "objectives": {"kd": None},
    "train": {"epochs": 3, "checkpoint": {"every_epochs": 1, "every_minutes": None}},
    "data": {"mode": "stream"},
}


class Ended(Exception):
    """What the listener raises."""


class Ending:
    """Ends the run after the epoch `last`."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.kinds: list[str] = []

    def event(self, kind: str, values: dict[str, Any]) -> None:
        self.kinds.append(kind)
        if kind == "epoch" and values["epoch"] == self.last:
            raise Ended

    def stop_requested(self) -> bool:
        return False


def test_a_stage_that_was_ended_goes_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = lab.folder / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    spec = make_plan(load_experiment(lab.write(CHANGES))).stages[0][0].spec
    before = set(threading.enumerate())
    for last, kinds in ((1, ["start", "log", "checkpoint", "epoch"]), (2, ["start", "history", "log"])):
        listener = Ending(last)
        with pytest.raises(Ended):
            StageWorker(spec, listener).run()
        assert listener.kinds[: len(kinds)] == kinds
        assert set(threading.enumerate()) == before
        assert list(scratch.iterdir()) == []  # the board's folder is gone
        files = sorted(path.name for path in Path(spec.store, spec.folder).rglob("*") if path.is_file())
        assert [name for name in files if name.endswith(".pt")] == [f"step-{2 * n:09d}.pt" for n in range(1, last + 1)]
        assert len([name for name in files if name.startswith("events")]) == last
        assert len(files) == 2 * last  # and nothing half written
    record = StageWorker(spec, Ending()).run()
    assert record["resumed_from"] == 4 and [row["epoch"] for row in record["history"]] == [1, 2, 3]
