"""Schedulers that judge after a restart as if there had been none."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, HyperBandScheduler, TrialScheduler

from kdray.experiment import Search
from kdray.tune.process import EPOCH, OBJECTIVE
from kdray.tune.schedule import make_scheduler, remember
from kdray.tune.trials import Goal, Trial, new_trial, take_rows

METRIC, EPOCHS = "val/top1", 9


def made(scheduler: dict[str, Any] | str, mode: str = "max") -> TrialScheduler:
    return make_scheduler(Search.model_validate({"scheduler": scheduler}).scheduler, mode, EPOCHS)


@dataclass(eq=False)
class Live:
    """A trial of Ray Tune, as far as a scheduler looks."""

    config: dict[str, Any]
    trial_id: str
    status: str = "RUNNING"
    is_saving: bool = False


@dataclass
class Command:
    """One command: runs epochs of trials by hand, and writes down what the scheduler said."""

    scheduler: TrialScheduler
    name: str
    trials: dict[int, Trial]
    live: dict[int, Live] = field(default_factory=dict)

    def epoch(self, number: int, value: float | None) -> str:
        """Trial `number` reaches `value` in its next epoch."""
        if number not in self.live:
            self.trials.setdefault(number, new_trial(number, {}, {}))
            self.live[number] = Live({"number": number}, f"{self.name}-{number}")
            self.scheduler.on_trial_add(None, self.live[number])
        trial, seen = self.trials[number], self.live[number]
        result = {EPOCH: trial["epochs"] + 1} | ({} if value is None else {OBJECTIVE: value})
        take_rows(trial, [{"epoch": result[EPOCH], METRIC: value}], Goal(METRIC))
        trial["state"] = "running"
        said = self.scheduler.on_trial_result(None, seen, result)
        if said == TrialScheduler.STOP or trial["epochs"] == EPOCHS:
            trial["state"] = "stopped" if said == TrialScheduler.STOP else "done"
            self.scheduler.on_trial_complete(None, seen, result)
        return said


def value_of(number: int, epoch: int) -> float:
    """A learning curve; which trial is good is mixed, and some cross."""
    quality = ((number * 7) % 11) / 11
    return quality * (1 - math.exp(-epoch / (1 + number % 3)))


def judged(
    scheduler: dict[str, Any] | str, steps: list[tuple[int, bool]], mode: str = "max", bad: Iterable[int] = ()
) -> list[str]:
    """What is said of `steps`, (trial, whether the command is a new one from here on), each one epoch of a trial."""
    command, said = Command(made(scheduler, mode), "first", {}), []
    for at, (number, restart) in enumerate(steps):
        if restart:
            trials = json.loads(json.dumps(list(command.trials.values())))
            ended = [trial for trial in trials if trial["state"] in ("done", "stopped")]
            unfinished = [trial for trial in trials if trial not in ended]
            again = made(scheduler, mode)
            remember(again, ended, unfinished, METRIC)
            command = Command(again, f"from-{at}", {trial["number"]: trial for trial in trials})
            for trial in unfinished:  # they are what goes on first
                command.live[trial["number"]] = Live({"number": trial["number"]}, f"from-{at}-{trial['number']}")
                again.on_trial_add(None, command.live[trial["number"]])
        trial = command.trials.get(number)
        if trial is not None and trial["state"] in ("done", "stopped"):
            said.append("ENDED")
            continue
        epoch = 1 if trial is None else trial["epochs"] + 1
        said.append(command.epoch(number, None if at in bad else value_of(number, epoch)))
    return said


def two_at_a_time(count: int) -> list[int]:
    """Trials in the order of their epochs: pairs side by side."""
    return [first + side for first in range(0, count, 2) for _ in range(EPOCHS) for side in (0, 1)]


def four_at_a_time(count: int) -> list[int]:
    """Trials in the order of their epochs: four side by side, each of another pace."""
    order = []
    for first in range(0, count, 4):
        left = {first + side: EPOCHS for side in range(4)}
        while any(left.values()):
            for side, number in enumerate(left):
                paced = min(left[number], (3, 1, 2, 4)[(side + first) % 4])
                left[number] -= paced
                order += [number] * paced
    return order


SCHEDULERS = [
    "asha",
    {"type": "asha", "grace_epochs": 2, "reduction": 2},
    "median",
    {"type": "median", "grace_epochs": 2, "min_trials": 2},
]


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=str)
@pytest.mark.parametrize("order", [two_at_a_time(12), four_at_a_time(16)], ids=["two", "four"])
def test_a_restart_changes_no_verdict(scheduler: dict[str, Any] | str, mode: str, order: list[int]) -> None:
    whole = judged(scheduler, [(number, False) for number in order], mode)
    assert {"CONTINUE", "STOP"} <= set(whole)
    for every in (1, 10):
        again = judged(scheduler, [(number, at > 0 and at % every == 0) for at, number in enumerate(order)], mode)
        assert again == whole, every


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=str)
def test_epochs_without_a_value_are_no_results(scheduler: dict[str, Any] | str) -> None:
    order = two_at_a_time(8)
    bad = range(0, len(order), 5)
    whole = judged(scheduler, [(number, False) for number in order], bad=bad)
    assert [said for at, said in enumerate(whole) if at in bad and said != "ENDED"] == ["CONTINUE"] * sum(
        whole[at] != "ENDED" for at in bad
    )
    assert judged(scheduler, [(number, at % 7 == 6) for at, number in enumerate(order)], bad=bad) == whole


def test_without_its_memory_a_scheduler_would_judge_otherwise() -> None:
    """What the tests above would not see if nobody was ever compared with trials of earlier commands."""
    good = new_trial(0, {}, {}) | {"state": "done"}
    take_rows(good, [{"epoch": n, METRIC: 0.9} for n in range(1, EPOCHS + 1)], Goal(METRIC))
    for known, verdict in (([good] * 1, TrialScheduler.STOP), ([], TrialScheduler.CONTINUE)):
        scheduler = made("asha")
        remember(scheduler, known, [], METRIC)
        assert Command(scheduler, "x", {}).epoch(1, 0.1) == verdict


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_failed_trial_of_earlier_is_remembered_and_does_no_harm(scheduler: str) -> None:
    failed = new_trial(0, {}, {}) | {"state": "failed"}
    half = new_trial(1, {}, {}) | {"state": "failed"}
    take_rows(half, [{"epoch": 1, METRIC: 0.5}], Goal(METRIC))
    again = made(scheduler)
    remember(again, [failed, half], [], METRIC)
    assert Command(again, "x", {}).epoch(2, 0.9) == TrialScheduler.CONTINUE


def test_median_never_pauses() -> None:
    """Ray Tune's does where there are too few to compare with: our trials would start anew at every epoch."""
    scheduler = made("median")
    first, second = Live({"number": 0}, "a"), Live({"number": 1}, "b", status="PENDING")
    for live in (first, second):
        scheduler.on_trial_add(None, live)

    class Controller:
        @staticmethod
        def get_live_trials() -> list[Live]:
            return [first, second]

    said = scheduler.on_trial_result(Controller(), first, {EPOCH: 1, OBJECTIVE: 0.1})
    assert said == TrialScheduler.CONTINUE


def test_a_bad_start_that_was_let_go_on_is_no_error_after_a_restart() -> None:
    """Beside all that others reached later, a replayed judgement would have stopped it."""
    rows = {0: [0.5, 0.6, 0.7], 1: [0.5, 0.6, 0.7], 2: [0.5, 0.6, 0.7], 3: [0.1, 0.8, 0.9]}
    trials = [new_trial(number, {}, {}) | {"state": "done" if number < 3 else "running"} for number in rows]
    for trial in trials:
        take_rows(trial, [{"epoch": n, METRIC: x} for n, x in enumerate(rows[trial["number"]], 1)], Goal(METRIC))
    scheduler = made({"type": "median", "min_trials": 3})
    remember(scheduler, trials[:3], trials[3:], METRIC)
    command = Command(scheduler, "again", {3: trials[3]}, {3: Live({"number": 3}, "again-3")})
    scheduler.on_trial_add(None, command.live[3])
    assert command.epoch(3, 0.95) == TrialScheduler.CONTINUE


class Controller:
    """As much of Ray Tune as Hyperband asks of it."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        self.scheduler = scheduler

    def stop_trial(self, trial: Live) -> None:
        trial.status = "TERMINATED"
        self.scheduler.on_trial_complete(self, trial, {})


@pytest.mark.parametrize("end", ["fails", "starts anew"])
def test_a_bracket_goes_on_without_a_trial_that_is_gone(end: str) -> None:
    """Nine epochs, by three: a bracket of nine trials is cut after one epoch and after three."""
    scheduler = made("hyperband")
    controller = Controller(scheduler)
    others = [Live({"number": number}, str(number)) for number in range(3 + 5)]  # fill two brackets before it
    live = [Live({"number": number}, str(number)) for number in range(8, 17)]
    for each in [*others, *live]:
        scheduler.on_trial_add(controller, each)
    bracket = scheduler._trial_info[live[0]][0]
    assert {scheduler._trial_info[each][0] for each in live} == {bracket} and bracket._live_trials.keys() == set(live)

    def epoch(trial: Live, number: int, value: float | None) -> None:
        trial.status = "RUNNING"
        result = {EPOCH: number} | ({} if value is None else {OBJECTIVE: value})
        said = scheduler.on_trial_result(controller, trial, result)
        trial.status = {"CONTINUE": "RUNNING", "PAUSE": "PAUSED", "STOP": "TERMINATED"}[said]

    for at, trial in enumerate(live):  # the first has no value: it is the worst
        epoch(trial, 1, at / 10 if at else None)
    left = [trial for trial in live if trial in bracket._live_trials]
    assert left == live[6:]
    for trial in left:
        epoch(trial, 2, 0.5)
    for trial in left[:2]:
        epoch(trial, 3, 0.5)
    assert [trial.status for trial in left] == ["PAUSED", "PAUSED", "RUNNING"]
    left[2].status = "ERROR" if end == "fails" else "PENDING"
    scheduler.on_trial_error(controller, left[2])
    assert scheduler.choose_trial_to_run(controller) in left[:2] + others, "both wait for one that does not come"
    assert sorted(trial.status for trial in left[:2]) == ["PAUSED", "TERMINATED"]
    assert bracket.trials_to_unpause & set(left[:2])


def test_trials_that_are_past_several_cuts_are_cut_at_once() -> None:
    """They come from an earlier command, with epochs of their own."""
    scheduler = made("hyperband")
    controller = Controller(scheduler)
    live = [Live({"number": number}, str(number)) for number in range(3 + 5 + 3)]
    for each in live:
        scheduler.on_trial_add(controller, each)
    last = live[8:]
    bracket = scheduler._trial_info[last[0]][0]
    assert bracket._live_trials.keys() == set(last) and bracket._halves == 2
    for at, trial in enumerate(last):
        trial.status = "RUNNING"
        said = scheduler.on_trial_result(controller, trial, {EPOCH: 5, OBJECTIVE: at / 10})
        trial.status = {"CONTINUE": "RUNNING", "PAUSE": "PAUSED", "STOP": "TERMINATED"}[said]
    assert [trial.status for trial in last] == ["TERMINATED", "TERMINATED", "RUNNING"]
    assert bracket._halves == 0


def test_a_trial_is_never_stopped_at_its_last_epoch() -> None:
    """There it ends by itself, with its model evaluated and written."""
    for kind in ("asha", "median"):
        scheduler = made(kind)
        for number in range(6):
            command = Command(scheduler, str(number), {})
            said = [command.epoch(number, 0.5 + number / 100) for _ in range(EPOCHS)]
            assert said == ["CONTINUE"] * EPOCHS


def test_every_kind_is_built() -> None:
    assert isinstance(made("hyperband"), HyperBandScheduler)
    assert isinstance(made({"type": "hyperband", "reduction": 4}), HyperBandScheduler)
    assert type(made("none")) is FIFOScheduler
    assert type(made("pbt")) is FIFOScheduler  # the population is a searcher of ours
    asha = made({"type": "asha", "grace_epochs": 100, "brackets": 2})
    assert isinstance(asha, AsyncHyperBandScheduler)


@pytest.mark.parametrize("kind", ["hyperband", "none", "pbt"])
def test_those_without_a_memory_start_as_they_are(kind: str) -> None:
    scheduler = made(kind)
    add = scheduler.on_trial_add
    remember(scheduler, [new_trial(0, {}, {}) | {"state": "done"}], [], METRIC)
    assert scheduler.on_trial_add == add
