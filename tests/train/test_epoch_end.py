"""The end of an epoch: its checkpoint is there before anybody hears of it, and who hears of it may end the run."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from kdray.experiment import Checkpointing
from kdray.store import Store
from kdray.train.checkpoint import Checkpoints
from tests.train.conftest import Listener, MakeLoop
from tests.train.test_loop import same

EVERY_EPOCH = Checkpointing(every_epochs=1, every_minutes=None, keep=9)


class Ended(Exception):
    """What a listener ends a run with."""


class Ending(Listener):
    """Looks at the newest checkpoint when an epoch is over, as another process would; ends the run after `last`."""

    def __init__(self, folder: str, last: int | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.last = last
        self.seen: list[dict[str, Any] | None] = []

    def event(self, kind: str, values: dict[str, Any]) -> None:
        super().event(kind, values)
        if kind == "epoch":
            self.seen.append(Checkpoints(Store(self.folder), keep=9).load_latest())
            if values["epoch"] == self.last:
                raise Ended


def test_who_hears_of_an_epoch_finds_its_checkpoint(make_loop: MakeLoop, tmp_path: Any) -> None:
    scores = iter([0.5, 0.3, 0.9])
    listener = Ending(str(tmp_path / "run"))
    make_loop("run", listener=listener, checkpoint=EVERY_EPOCH, validate=lambda net: {"top1": next(scores)}).run()
    rows = [values for kind, values in listener.events if kind == "epoch"]
    for epoch, state in enumerate(listener.seen, 1):
        assert state is not None and state["position"] == {"epoch": epoch, "batch": 0, "steps_per_epoch": 6}
        assert state["history"] == rows[:epoch]
    assert [state["best"]["epoch"] for state in listener.seen if state] == [1, 1, 3]
    saved = [values["step"] for kind, values in listener.events if kind == "checkpoint"]
    assert saved == [6, 12, 18]  # the last one once


def test_every_second_epoch_and_the_last(make_loop: MakeLoop) -> None:
    listener = Listener()
    cadence = Checkpointing(every_epochs=2, every_minutes=None)
    make_loop("run", listener=listener, checkpoint=cadence).run()
    assert [values["step"] for kind, values in listener.events if kind == "checkpoint"] == [12, 18]


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_listener_ends_the_run_and_a_later_one_goes_on(make_loop: MakeLoop, tmp_path: Any, last: int) -> None:
    whole = make_loop().run()
    listener = Ending(str(tmp_path / "run"), last)
    with pytest.raises(Ended) as error:
        make_loop("run", listener=listener, checkpoint=EVERY_EPOCH).run()
    assert error.value.__notes__ == [f"at step {6 * last}"]
    resumed = make_loop("run", checkpoint=EVERY_EPOCH).run()
    assert resumed.resumed_from == 6 * last and same(whole, resumed)


def test_an_error_waits_for_the_writer_and_is_not_hidden_by_its_failure(
    make_loop: MakeLoop, tmp_path: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of step 5 is still being written, and fails, when the epoch's end is refused."""
    refused = threading.Event()

    class Refusing(Listener):
        def event(self, kind: str, values: dict[str, Any]) -> None:
            if kind == "epoch":
                refused.set()
                raise Ended

    def write(*_: Any) -> None:
        assert refused.wait(10)
        raise OSError("the disk is full")

    monkeypatch.setattr(Store, "write_bytes", write)
    cadence = Checkpointing(every_steps=5, every_minutes=None)
    with pytest.raises(Ended):
        make_loop("run", listener=Refusing(), checkpoint=cadence).run()
    assert "not written: the disk is full" in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint-writer"]


def test_a_run_that_goes_on_tells_what_was_before_it(make_loop: MakeLoop, tmp_path: Any) -> None:
    first = Ending(str(tmp_path / "run"), 2)
    with pytest.raises(Ended):
        make_loop("run", listener=first, checkpoint=EVERY_EPOCH).run()
    assert "history" not in [kind for kind, _ in first.events]
    second = Listener()
    outcome = make_loop("run", listener=second).run()
    assert [kind for kind, _ in second.events[:2]] == ["start", "history"]
    assert second.events[1][1] == {"rows": outcome.history[:2]}
    assert second.events[1][1]["rows"] == [values for kind, values in first.events if kind == "epoch"]
    assert all(torch.isfinite(torch.tensor(row["loss/total"])) for row in outcome.history)
