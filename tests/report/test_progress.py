"""Progress: plain lines in a log, a bar on a terminal, warnings, and signals as wishes to stop."""

from __future__ import annotations

import io
import logging
import os
import signal
import threading
from typing import Any

import pytest
from rich.console import Console

from kdray.report import progress
from kdray.report.progress import ProgressView, terminable

LOG = {"step": 4, "epoch": 0, "batch": 4, "loss/total": 1.5, "images_per_s": 100.0, "data_wait": 0.25, "lr": 0.1}
EPOCH = {"epoch": 1, "loss/total": 1.25, "val/top1": 0.5, "images_per_s": 99.0, "data_wait": 0.5}


def view(terminal: bool = False) -> tuple[ProgressView, io.StringIO]:
    out = io.StringIO()
    return ProgressView(Console(file=out, width=140, force_terminal=terminal)), out


def test_a_log_gets_a_line_for_every_stage_and_epoch() -> None:
    shown, out = view()
    with shown:
        shown.stage("teacher: own.nets:Net[bold]")
        shown.event("start", {"step": 3, "epochs": 2, "steps": 10})
        shown.event("history", {"rows": [EPOCH]})  # was shown by who made it
        shown.event("log", LOG)  # too soon for a line
        shown.event("epoch", EPOCH)
        shown.event("checkpoint", {"step": 10})
    assert out.getvalue().splitlines() == [
        "teacher: own.nets:Net[bold]",
        "  goes on from step 3",
        "  epoch 1/2  loss 1.2500  val 50.00 %  99 images/s  data wait 50.0 %",
    ]


def test_a_long_epoch_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, out = view()
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with shown:
        shown.event("start", {"step": 0, "epochs": 2, "steps": 10})
        for clock[0] in (29.0, 31.0, 40.0):
            shown.event("log", LOG)
    assert out.getvalue().splitlines() == ["  epoch 1/2 step 4/10  loss 1.5  100 images/s  data wait 25.0 %  lr 0.1"]


def test_a_terminal_gets_a_bar() -> None:
    shown, out = view(terminal=True)
    with shown:
        shown.stage("student")
        shown.event("start", {"step": 0, "epochs": 2, "steps": 10})
        shown.event("log", LOG)
        shown.event("epoch", EPOCH)
    assert "4/20" in out.getvalue() and "━" in out.getvalue() and "loss 1.5" in out.getvalue()


def test_warnings_of_kdray_are_shown_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    shown, out = view()
    with shown:
        logging.getLogger("kdray.data.bad").warning("row %d: [red] is no colour", 3)
        logging.getLogger("kdray.data.bad").info("nobody needs this")
        logging.getLogger("other").warning("somebody else's")
        shown.event("warning", {"text": "from a worker [1]"})
    logging.getLogger("kdray.data.bad").warning("after the end")
    assert out.getvalue().splitlines() == [
        "warning: row 3: [red] is no colour",
        "warning: from a worker [1]",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish_and_the_second_an_order(number: signal.Signals) -> None:
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    shown, out = view()
    with shown:
        assert not shown.stop_requested()
        os.kill(os.getpid(), number)
        assert shown.stop_requested()
        assert f"{number.name}: saving the state and stopping (once more: stop at once" in out.getvalue()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert {kind: signal.getsignal(kind) for kind in before} == before


def test_it_runs_in_a_thread_where_no_signal_comes() -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with terminable(), view()[0] as shown:
                shown.stage("student")
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []


def test_terminable_restores_what_was_there() -> None:
    seen: list[Any] = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        with pytest.raises(KeyboardInterrupt), terminable():
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [1]
    finally:
        signal.signal(signal.SIGTERM, before)
