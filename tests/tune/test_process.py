"""A trial's thread: one result an epoch, none before it is asked for, and an end that is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kdray.errors import ClusterError, ConfigError, Interrupted, StoreError
from kdray.experiment import Cluster
from kdray.store import Store
from kdray.train.shares import Shares
from kdray.train.spec import StageSpec
from kdray.tune.process import EPOCH, OBJECTIVE, TOLD, TrialRun
from kdray.tune.trials import Goal
from kdray.tune.work import Work

GOAL = Goal("val/top1")
LONG_S = 10.0


def row(epoch: int, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "val/top1": epoch / 10, "seconds": 10.0} | more


@dataclass(frozen=True, kw_only=True)
class Fake(Work):
    """Calls `train` in the place of a training."""

    train: Callable[[TrialRun], dict[str, Any]]

    def stage(self, config: Mapping[str, Any]) -> StageSpec:
        raise AssertionError("no stage is made here")

    def run(self, config: Mapping[str, Any], run: TrialRun) -> dict[str, Any]:
        return self.train(run)


class Outer:
    """The command, as a process listens to it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.stop = False

    def event(self, kind: str, values: dict[str, Any]) -> None:
        self.events.append((kind, values))

    def stop_requested(self) -> bool:
        return self.stop


class Training:
    """Epochs from `first` on; `at` does something in the middle of one."""

    def __init__(self, epochs: int, first: int = 1, at: dict[int, Callable[[TrialRun], None]] | None = None) -> None:
        self.epochs, self.first, self.at = epochs, first, at or {}
        self.begun = 0
        self.wound_up = threading.Event()

    def __call__(self, run: TrialRun) -> dict[str, Any]:
        run.max_epochs = self.epochs
        rows = [row(epoch) for epoch in range(1, self.first)]
        try:
            if rows:
                run.event("history", {"rows": rows})
            for epoch in range(self.first, self.epochs + 1):
                self.begun = epoch
                self.at.get(epoch, lambda _: None)(run)
                rows.append(row(epoch))
                run.event("epoch", row(epoch))
        finally:
            self.wound_up.set()
        return {"history": rows, "device": "cpu", "precision": "fp32", "test": {"top1": 0.9}, "parameters": 12}


Start = Callable[..., TrialRun]


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes runs, and ends them."""
    made: list[TrialRun] = []

    def begin(
        train: Callable[[TrialRun], dict[str, Any]],
        goal: Goal = GOAL,
        outer: Outer | None = None,
        workers: int = 1,
        **config: Any,
    ) -> TrialRun:
        cluster = Cluster.model_validate({"workers": workers})
        work = Fake(goal=goal, cluster=cluster, shares=Shares(1.0, 0.0), seen_by={}, train=train)
        made.append(TrialRun(work, {"number": 3, **config}, outer or Outer()))  # type: ignore[arg-type]
        return made[-1]

    yield begin
    for run in made:
        run.end()


def told(result: dict[str, Any]) -> dict[str, Any]:
    return json.loads(result[TOLD])


def test_one_result_an_epoch_and_the_last_when_all_is_written(start: Start) -> None:
    run = start(Training(3))
    results = [run.next() for _ in range(3)]
    assert [result[EPOCH] for result in results] == [1, 2, 3]
    assert [result[OBJECTIVE] for result in results] == [0.1, 0.2, 0.3]
    assert [result.get("done") for result in results] == [None, None, True]
    assert [told(result)["ended"] for result in results] == [None, None, "done"]
    assert [told(result)["rows"] for result in results[:2]] == [[row(1)], [row(2)]]
    last = told(results[2])
    assert last["rows"] == [row(1), row(2), row(3)]  # as the record has them
    assert last["facts"]["device"] == "cpu" and last["facts"]["parameters"] == 12
    assert "test" not in last["facts"]  # nobody may choose by it


def test_an_epoch_waits_until_the_next_result_is_asked_for(start: Start) -> None:
    training = Training(3)
    run = start(training)
    time.sleep(0.05)
    assert training.begun == 0
    run.next()
    time.sleep(0.1)
    assert training.begun == 1
    run.next()
    time.sleep(0.05)
    assert training.begun == 2


def test_end_stops_it_at_its_epoch(start: Start) -> None:
    training = Training(3)
    run = start(training)
    run.next()
    run.end()
    assert training.begun == 1 and training.wound_up.is_set()
    assert run._results.empty() and not run._thread.is_alive()
    run.end()  # twice is fine


def test_end_before_the_beginning(start: Start) -> None:
    training = Training(3)
    start(training).end()
    assert training.begun == 0


def test_end_in_the_middle_of_an_epoch_is_a_wish_to_stop(start: Start) -> None:
    reached = threading.Event()

    def wait(run: TrialRun) -> None:
        reached.set()
        until = time.monotonic() + LONG_S
        while not run.stop_requested():
            assert time.monotonic() < until
            time.sleep(0.005)
        raise Interrupted("stopped, its state saved")

    run = start(Training(3, at={1: wait}))
    results: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: results.append(run.next()))
    asking.start()
    assert reached.wait(LONG_S)
    run.end()
    asking.join(LONG_S)
    assert told(results[0])["ended"] == "waiting"


def test_a_generation_ends_in_waiting(start: Start) -> None:
    run = start(Training(5), until=2)
    first, second = run.next(), run.next()
    assert (told(first)["ended"], told(second)["ended"]) == (None, "waiting")
    assert second["done"] and second[EPOCH] == 2


def test_a_generation_that_ends_with_the_training_is_done(start: Start) -> None:
    run = start(Training(2), until=2)
    run.next()
    assert told(run.next())["ended"] == "done"


def test_a_generation_whose_last_epoch_was_trained_before_waits_at_once(start: Start) -> None:
    """The process was killed between the checkpoint and the word of it: one epoch more would be out of step."""
    training = Training(5, first=3)
    run = start(training, until=2)
    result = run.next()
    assert (told(result)["ended"], result[EPOCH], told(result)["rows"]) == ("waiting", 2, [row(1), row(2)])
    run.end()
    assert training.begun == 0


def test_a_budget_ends_a_trial_before_its_last_epoch(start: Start) -> None:
    for goal in (Goal("val/top1", epochs=2), Goal("val/top1", seconds=25)):
        run = start(Training(5), goal)
        first, second = run.next(), run.next()
        assert (told(first)["ended"], told(second)["ended"]) == (None, "done")
        assert second["done"]
        assert "facts" not in told(second)


def test_a_budget_that_was_spent_before_ends_at_once(start: Start) -> None:
    training = Training(5, first=3)
    run = start(training, Goal("val/top1", epochs=2))
    assert (told(run.next())["ended"], training.begun) == ("done", 0)


def test_what_was_trained_before_is_told_with_the_next_epoch(start: Start) -> None:
    run = start(Training(5, first=3))
    result = run.next()
    assert (result[EPOCH], told(result)["rows"]) == (3, [row(1), row(2), row(3)])
    assert told(run.next())["rows"] == [row(4)]


def test_a_training_that_was_whole_before_goes_on_to_its_end(start: Start) -> None:
    result = start(Training(2, first=3), Goal("val/top1", epochs=2), until=1).next()
    assert (told(result)["ended"], told(result)["rows"]) == ("done", [row(1), row(2)])


def raising(error: BaseException) -> Callable[[TrialRun], None]:
    def fail(_: TrialRun) -> None:
        raise error

    return fail


def test_bad_parameters_fail_the_trial_alone(start: Start) -> None:
    run = start(Training(3, at={2: raising(ConfigError("too wide", where="student.params.width"))}))
    run.next()
    result = run.next()
    said = told(result)
    assert (said["ended"], said["error"], result["done"]) == ("failed", "student.params.width: too wide", True)
    assert said["rows"] == [] and "spoiled" not in said


def test_an_error_that_nobody_planned_for_spoils_the_process(start: Start, tmp_path: Path) -> None:
    def fail(run: TrialRun) -> None:
        run.store = Store(tmp_path)
        raise RuntimeError("CUDA error: an illegal memory access\nmore")

    result = start(Training(3, at={1: fail})).next()
    said = told(result)
    # Not done: an error in the next step is the only end after which the process gets no other trial.
    assert (said["ended"], said["spoiled"], result.get("done"), result[EPOCH]) == ("failed", True, None, 0)
    assert "illegal memory access" in said["error"] and "\n" not in said["error"]
    assert "Traceback" in (tmp_path / "traceback.txt").read_text()
    assert OBJECTIVE not in result


@pytest.mark.parametrize("error", [StoreError("does not answer", where="s3://b"), ClusterError("a node is gone")])
def test_what_may_pass_is_raised_for_another_attempt(start: Start, error: Exception) -> None:
    run = start(Training(3, at={2: raising(error)}))
    run.next()
    with pytest.raises(type(error), match=str(error)):
        run.next()


def test_a_stop_of_the_command_reaches_the_training(start: Start) -> None:
    outer, seen = Outer(), []

    def look(run: TrialRun) -> None:
        seen.append(run.stop_requested())
        outer.stop = True
        seen.append(run.stop_requested())
        raise Interrupted("stopped")

    result = start(Training(3, at={1: look}), outer=outer).next()
    assert seen == [False, True]
    assert told(result)["ended"] == "waiting"


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_no_finite_number_is_no_objective(start: Start, value: float | None) -> None:
    def train(run: TrialRun) -> dict[str, Any]:
        run.max_epochs = 2
        run.event("epoch", row(1) | {"val/top1": value})
        return {}

    assert OBJECTIVE not in start(train).next()


def test_warnings_and_weights_go_to_the_command_with_the_trials_number(start: Start) -> None:
    outer = Outer()

    def train(run: TrialRun) -> dict[str, Any]:
        run.event("warning", {"text": "a checkpoint cannot be read"})
        run.event("balance", {"weights": {"kd": 2.0}})
        run.event("log", {"step": 1})
        return {}

    start(train, outer=outer).next()
    assert outer.events == [
        ("warning", {"text": "trial 3: a checkpoint cannot be read"}),
        ("balance", {"number": 3, "weights": {"kd": 2.0}}),
    ]


def test_workers_elsewhere_do_not_wait(start: Start) -> None:
    training = Training(3)
    run = start(training, workers=2)
    run.next()
    assert training.wound_up.wait(LONG_S) and training.begun == 3
    assert [run.next()[EPOCH] for _ in range(2)] == [2, 3]
