"""The view of a running search: lines in a log, a table on a terminal, at any number of trials."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from kdray.report import sweep_view
from kdray.report.sweep_view import SweepView, fitting
from tests.report.searches import search, trial

Clock = Callable[[float], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until the test moves it; no thread prints meanwhile."""
    now = [0.0]
    monkeypatch.setattr(sweep_view.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sweep_view, "TICK_S", 3600.0)
    return now


def view(wanted: int = 3, **size: int) -> tuple[SweepView, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=size.get("width", 120), height=size.get("height"), force_terminal=bool(size))
    return SweepView(console, "val/top1", "max", wanted, 4), out


def drawn(shown: SweepView) -> list[str]:
    """The table as the terminal would show it now, without colours."""
    plain = Console(file=io.StringIO(), width=shown.console.width, height=shown.console.height, color_system=None)
    with plain.capture() as capture:
        plain.print(shown._table())
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_life_of_trials_in_a_log(clock: list[float]) -> None:
    shown, out = view()
    with shown:
        shown.update(trial(0, "waiting", parameters={"method": "kd", "objectives.kd.weight": 0.123456}))
        shown.update(trial(0, "running", parameters={"method": "kd", "objectives.kd.weight": 0.123456}))
        for epochs in (1, 2, 3, 4):
            clock[0] += 20
            shown.update(trial(0, "running", [0.3, 0.5, 0.4, 0.45][:epochs]))
        shown.update(trial(0, "done", [0.3, 0.5, 0.4, 0.45], wall_s=81.0))
        shown.update(trial(1, "running"))
        shown.update(trial(1, "stopped", [0.1], wall_s=12.0))
        shown.update(trial(2, "running"))
        shown.update(trial(2, "failed", attempts=3, error="DataError: no such file: [red]"))
    assert out.getvalue().splitlines() == [
        "  trial 0 starts: method=kd weight=0.1235",
        "  trial 0 epoch 2/4  val/top1 50.00 %  loss 2.5",  # the first came too soon
        "  trial 0 epoch 4/4  val/top1 45.00 %  best 50.00 % (epoch 2)  loss 2.55",
        "  trial 0 done after epoch 4/4: val/top1 45.00 %, best 50.00 % (epoch 2)  1m21s",
        "  trial 1 starts: weight=0.15",
        "  trial 1 stopped early after epoch 1/4: val/top1 10.00 %  12.0s",
        "  trial 2 starts: weight=0.25",
        "  trial 2 failed after epoch 0/4: DataError: no such file: [red] (3 attempts)  0.0s",
        "  1 done, 1 stopped, 1 failed, 0 running, 0 waiting of 3  best val/top1 50.00 % (trial 0, epoch 2)  "
        "1m20s so far",
    ]


def test_an_epoch_that_came_too_soon_is_shown_later(clock: list[float]) -> None:
    shown, out = view()
    with shown:
        shown.update(trial(0, "running"))
        clock[0] = 5
        shown.update(trial(0, "running", [0.5]))
        clock[0] = 29
        shown.tick()
        assert "epoch" not in out.getvalue()
        clock[0] = 30
        shown.tick()
        shown.tick()
        assert out.getvalue().count("trial 0 epoch 1/4") == 1
        clock[0] = 35
        shown.update(trial(0, "running", [0.5, 0.6]))
    assert "trial 0 epoch 2/4  val/top1 60.00 %" in out.getvalue()  # at the end, whatever the time


def test_a_log_has_a_summary_now_and_then(clock: list[float]) -> None:
    shown, out = view(wanted=4)
    with shown:
        shown.update(trial(0, "running"))
        shown.update(trial(0, "done", [0.5, 0.4]))
        shown.update(trial(1, "running", [0.3]))
        for clock[0] in (60.0, 180.0, 181.0):
            shown.tick()
    (line,) = [line for line in out.getvalue().splitlines() if "3m00s so far" in line]
    # Trials take 22 s: those to come as much, and what runs since 180 s is taken to be about to end.
    assert line == (
        "  1 done, 0 stopped, 0 failed, 1 running, 2 waiting of 4  best val/top1 50.00 % (trial 0, epoch 1)  "
        "3m00s so far  about 44.0s left"
    )


def test_a_search_that_goes_on_counts_what_was_done(clock: list[float]) -> None:
    shown, out = view(wanted=4)
    with shown:
        shown.update(trial(0, "done", [0.5]))
        shown.update(trial(1, "stopped", [0.6]))
        shown.update(trial(2, "failed", error="it broke"))
        shown.update(trial(3, "running", [0.2, 0.3], attempts=2))
    assert out.getvalue().splitlines()[:3] == [
        "  2 trials were done before",
        "  trial 2 failed after epoch 0/4: it broke  0.0s",
        "  trial 3 goes on after epoch 2/4: weight=0.35",
    ]


def test_before_a_trial_ended_its_epochs_tell_the_time_left(clock: list[float]) -> None:
    shown, _ = view(wanted=4)
    shown.update(trial(0, "running"))
    assert shown.state.left_s(0) is None
    shown.update(trial(1, "running", [0.5]))
    # 11 s an epoch: 44 s a trial. The two that run have 77 s ahead, two more take 88 s, and two run at a time.
    assert shown.state.left_s(0) == pytest.approx((44 + 33 + 2 * 44) / 2)


def test_warnings_are_shown_as_they_are(clock: list[float]) -> None:
    shown, out = view()
    with shown:
        shown.warning("from a worker [1]")
    assert out.getvalue().splitlines()[0] == "warning: from a worker [1]"


def test_a_terminal_has_a_table_with_what_varies(clock: list[float]) -> None:
    shown, _ = view(wanted=9, width=120, height=20)
    same = {"train.epochs": 4}
    for number, (state, tops) in enumerate(
        [("done", [0.1, 0.2]), ("running", [0.3]), ("stopped", [0.4, 0.35]), ("failed", []), ("waiting", [])]
    ):
        parameters = same | {"objectives.kd.weight": number + 0.5}
        shown.update(trial(number, state, tops, parameters=parameters | ({"method": "[kd]"} if number == 2 else {})))
    clock[0] = 9
    lines = drawn(shown)
    assert lines[0] == "1 done, 1 stopped, 1 failed, 1 running, 5 waiting of 9"
    assert lines[1].startswith("best val/top1 30.00 % (trial 1, epoch 1)  9.0s so far  about ")
    table = [line.split() for line in lines if line and line.lstrip()[0] in "t0123456789"][-5:]
    assert table == [
        ["trial", "state", "epoch", "now", "best", "time", "weight", "method"],
        ["1", "running", "1/4", "30.00", "%", "30.00", "%", "20.0s", "1.5", "-"],
        ["0", "done", "2/4", "20.00", "%", "20.00", "%", "22.0s", "0.5", "-"],
        ["2", "stopped", "2/4", "35.00", "%", "40.00", "%", "22.0s", "2.5", "[kd]"],
        ["3", "failed", "0/4", "-", "-", "0.0s", "3.5", "-"],
    ]


@pytest.mark.parametrize("width, height", [(120, 30), (60, 12), (40, 6), (200, 50)])
def test_the_table_fits_the_terminal(clock: list[float], width: int, height: int) -> None:
    shown, _ = view(wanted=100, width=width, height=height)
    for each in search(80)["trials"]:
        shown.update(each | ({"state": "running"} if each["number"] < 10 else {}))
    lines = drawn(shown)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert sum(" run" in line for line in lines[2:]) == min(10, height - 5)


def test_columns_that_do_not_fit_are_named() -> None:
    rows = [{"a.weight": 1.0, "b.weight": 2.0, "c": "long text"}]
    assert fitting(["a.weight", "b.weight", "c"], rows, 100)[0] == {
        "a.weight": "a.weight",
        "b.weight": "b.weight",
        "c": "c",
    }
    assert fitting(["a.weight", "b.weight", "c"], rows, 12) == ({"a.weight": "a.weight"}, ["b.weight", "c"])


def test_a_terminal_sees_trials_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, out = view(width=120, height=20)
    with shown:
        shown.update(trial(0, "running", [0.25]))
        shown.warning("careful")
        shown.update(trial(1, "failed", error="it [broke]"))
        shown.update(trial(0, "done", [0.25, 0.75]))
        deadline = time.monotonic() + 5
        while "75.00 %" not in out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "75.00 %" in out.getvalue() and "careful" in out.getvalue()
    assert "trial 1 failed after epoch 0/4: it [broke]" in out.getvalue()
    assert "1 done" in out.getvalue().splitlines()[-1]


def test_a_thousand_trials_cost_little_and_any_thread_may_tell() -> None:
    shown, _ = view(wanted=1000, width=160, height=40)
    redraws = 0
    table = shown._table

    def counted() -> object:
        nonlocal redraws
        redraws += 1
        return table()

    shown._table = counted  # type: ignore[method-assign,assignment]
    trials = search(1000)["trials"]
    failed: list[BaseException] = []

    def tell(part: list[dict]) -> None:
        try:
            for each in part:
                for epochs in range(1, each["epochs"] + 1):
                    shown.update(each | {"state": "running", "epochs": epochs, "history": each["history"][:epochs]})
                shown.update(each)
                if each["number"] % 20 == 0:
                    shown.warning(f"trial {each['number']}")  # must not wait for a redraw that waits for it
        except BaseException as error:
            failed.append(error)

    began, cost = time.monotonic(), time.process_time()
    with shown:
        threads = [threading.Thread(target=tell, args=(trials[start::4],)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - began
    cost = time.process_time() - cost
    assert failed == []
    assert shown.state.ended() == 1000 and shown.state.count("running") == 0
    best = max((each for each in trials if each["value"] is not None), key=lambda each: each["value"])
    assert shown.state.best is not None and shown.state.best.value == best["value"]
    assert redraws <= 4 * took + 3
    assert cost < 10  # seconds of CPU for about 7,000 changes


def test_a_trial_that_starts_over_is_no_longer_the_best() -> None:
    shown, _ = view()
    shown.update(trial(0, "running", [0.9]))
    shown.update(trial(1, "done", [0.5]))
    shown.update(trial(0, "running", [], attempts=2))
    assert shown.state.best is not None and shown.state.best.number == 1


@pytest.mark.parametrize("end", ["stopped", "failed"])
def test_one_that_does_not_train_to_its_end_is_no_longer_the_best(end: str) -> None:
    shown, _ = view()
    shown.update(trial(0, "running", [0.9]))
    shown.update(trial(1, "done", [0.5]))
    assert shown.state.best is not None and shown.state.best.number == 0
    shown.update(trial(0, end, [0.9]))
    assert shown.state.best.number == 1
    shown.update(trial(2, end, [0.95]))
    assert shown.state.best.number == 1
