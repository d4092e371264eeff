"""Which trials go on: Ray Tune's schedulers, with what earlier commands saw replayed to them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from kdray.experiment.search_part import Scheduler
from kdray.tune.process import EPOCH, OBJECTIVE
from kdray.tune.trials import Trial


def make_scheduler(scheduler: Scheduler, mode: str, max_epochs: int) -> TrialScheduler:
    """The scheduler that `scheduler` describes, for trials of at most `max_epochs`."""
    shared: dict[str, Any] = {"time_attr": EPOCH, "metric": OBJECTIVE, "mode": mode}
    if scheduler.type == "asha":
        return AsyncHyperBandScheduler(
            **shared,
            max_t=max_epochs,
            grace_period=min(scheduler.grace_epochs, max_epochs),
            reduction_factor=scheduler.reduction,
            brackets=scheduler.brackets,
            stop_last_trials=False,  # a trial ends by itself, with its model written
        )
    if scheduler.type == "median":
        return Median(**shared, grace_period=scheduler.grace_epochs, min_samples_required=scheduler.min_trials)
    if scheduler.type == "hyperband":
        return Brackets(**shared, max_t=max_epochs, reduction_factor=scheduler.reduction, stop_last_trials=False)
    return FIFOScheduler()


class Median(MedianStoppingRule):
    """Lets a trial go on while there are too few others to compare it with.

    Ray Tune's own pauses it as soon as another waits for a place: each epoch would cost a start from the checkpoint.
    """

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        return TrialScheduler.CONTINUE

    def learn(self, trial: Any, result: dict[str, Any]) -> None:
        """Know of a result that was judged when it came. To judge it again, beside others than then, would make Ray
        Tune's refuse all later ones of a trial that it would have stopped."""
        self._results[trial].append(result)


class Brackets(HyperBandScheduler):
    """Halves a bracket whenever all that is left of it has come so far.

    Ray Tune's own does so no more after the first halving when a trial fails, or starts anew because its process died:
    the others, paused, would wait without end. Nor does it see that all that is left is past the next cut as well, as
    trials of an earlier command may be. And it wants a value in every result; without one, ours is the worst.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if OBJECTIVE not in result:
            result = result | {OBJECTIVE: -math.inf if self._mode == "max" else math.inf}
        return str(super().on_trial_result(tune_controller, trial, result))

    def _process_bracket(self, tune_controller: Any, bracket: Any) -> str:
        action = self._cut(tune_controller, bracket)
        while bracket._halves > 0 and bracket._live_trials and bracket.cur_iter_done():
            then = self._cut(tune_controller, bracket)
            action = action if action == TrialScheduler.STOP else then
        return action

    def _cut(self, tune_controller: Any, bracket: Any) -> str:
        try:
            return str(super()._process_bracket(tune_controller, bracket))
        finally:
            bracket.is_being_processed = False


def remember(scheduler: TrialScheduler, ended: Iterable[Trial], unfinished: Iterable[Trial], metric: str) -> None:
    """Show `scheduler` what trials of earlier commands reached, so that it judges new ones as it would have.

    Those that go on are shown when they begin, under the name that Ray Tune gives them now. ASHA and median stopping
    need it; Hyperband's brackets are filled anew with the trials that are left.
    """
    if not isinstance(scheduler, AsyncHyperBandScheduler | Median):
        return
    for trial in ended:
        seen = Seen(f"earlier-{trial['number']}")
        scheduler.on_trial_add(None, seen)  # type: ignore[arg-type]
        last = _show(scheduler, seen, trial, metric)
        if last and trial["state"] in ("done", "stopped"):
            scheduler.on_trial_complete(None, seen, last)  # type: ignore[arg-type]
    earlier = {trial["number"]: trial for trial in unfinished if trial["history"]}
    add = scheduler.on_trial_add

    def on_trial_add(controller: Any, trial: Any) -> None:
        add(controller, trial)
        known = earlier.pop(trial.config["number"], None)
        if known is not None:
            _show(scheduler, trial, known, metric)

    scheduler.on_trial_add = on_trial_add  # type: ignore[method-assign,assignment]


@dataclass(frozen=True)
class Seen:
    """As much of Ray Tune's trial as its schedulers look at."""

    trial_id: str
    status: str = "TERMINATED"


def _show(scheduler: TrialScheduler, seen: Any, trial: Trial, metric: str) -> dict[str, Any]:
    """Show every epoch of `trial`; returns the last result."""
    last: dict[str, Any] = {}
    for row in trial["history"]:
        if row.get(metric) is not None:
            last = {EPOCH: row["epoch"], OBJECTIVE: row[metric]}
            if isinstance(scheduler, Median):
                scheduler.learn(seen, last)
            else:
                scheduler.on_trial_result(None, seen, last)  # type: ignore[arg-type]
    return last
