"""Running many trials on Ray Tune, and keeping the journal of them, which is what a later command reads."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, HyperBandScheduler, TrialScheduler

from kdray.data.ray_shared import start_sharing
from kdray.errors import ClusterError, KdrayError, StoreError
from kdray.store import Store
from kdray.train.control import start_control
from kdray.train.failure import innermost, reason_of
from kdray.train.job import Listener
from kdray.train.shares import nodes_of
from kdray.train.trainer import Waiting
from kdray.tune.journal import Journal
from kdray.tune.process import TOLD, TrialProcess
from kdray.tune.slots import Slots
from kdray.tune.suggest import Sampler, Suggest
from kdray.tune.trials import ENDED, Goal, Trial, now, take_rows
from kdray.tune.tuner import fit, scratch
from kdray.tune.views import TrialView
from kdray.tune.work import Work

POLL_S = 0.2
RUNNING = "RUNNING"  # the status of a trial of Ray Tune that has a process
LOOK_S = 1.0  # between looks at how far the cluster has grown


@dataclass
class Sweep:
    """Trials to run: `work` says what each is, `sampler` which they are, `known` what earlier commands left of them.

    `wanted` is how many there are to be in all (None: as many as the sampler has). `deadline` is a time of day
    (seconds) after which no trial begins. `population` makes what gives Ray Tune its trials, where that is not one
    after another. Without `reuse`, every trial has a process of its own.
    """

    work: Work
    goal: Goal
    sampler: Sampler
    slots: Slots
    journal: Journal
    store: Store
    folder: str
    known: list[Trial]
    view: TrialView
    listener: Listener
    wanted: int | None = None
    scheduler: TrialScheduler = field(default_factory=FIFOScheduler)
    deadline: float | None = None
    max_failures: int = 3
    needs_value: bool = True  # a trial without a value of the metric is a failure
    reuse: bool = True
    artifact: Callable[[int], str] | None = None
    on_end: Callable[[Trial], None] | None = None
    population: Callable[[Callable[[str, Trial], None], Callable[[], bool]], Suggest] | None = None

    def run(self) -> list[Trial]:
        """Run until no trial is left, and return all of them by number.

        Raises:
            KdrayError: Ray Tune itself failed. A trial that fails is in the list, as failed.
        """
        return _Running(self).run()

    def unfinished(self) -> list[Trial]:
        """What an earlier command began and did not end."""
        return [trial for trial in self.known if trial["state"] not in ENDED]


class _Running(tune.Callback):
    """One call of `Sweep.run`: hears of every result from Ray Tune, in its thread."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.trials = {trial["number"]: trial for trial in sweep.known}
        self.earlier_s: dict[int, float] = {}
        self.by_id: dict[str, Trial] = {}
        self.error: BaseException | None = None
        self.work = sweep.work
        self.its: list[Any] = []  # Ray Tune's trials
        self._looked_s, self._asked = -LOOK_S, sweep.slots.concurrent

    def run(self) -> list[Trial]:
        sweep = self.sweep
        unfinished = sweep.unfinished()
        for trial in sweep.known:
            if trial["state"] in ENDED:
                sweep.sampler.tell(trial)
            else:
                sweep.sampler.resume(trial)
            sweep.view.update(trial)
        if not unfinished and sweep.wanted is not None and len(self.trials) >= sweep.wanted:
            return self._all()
        control, sharing = start_control(), start_sharing()
        self.work = replace(sweep.work, sharing=sharing if sweep.work.in_process else None)
        thread = threading.Thread(target=self._fit, args=(control, unfinished), name="ray-tune-fit", daemon=True)
        thread.start()
        waiting = Waiting(1, sweep.slots.bundles[0], sweep.listener)
        while thread.is_alive():
            thread.join(POLL_S)
            self._exchange(control)
            waiting.over = waiting.over or self._runs()
            waiting.tell()
        self._exchange(control)
        ray.kill(control)
        sharing.close()
        for trial in self.trials.values():
            if trial["state"] == "running":  # paused by the scheduler, when all was stopped
                trial["state"] = "waiting"
                self._put(trial)
        sweep.journal.flush()
        if self.error is not None:
            raise self.error
        return self._all()

    def _all(self) -> list[Trial]:
        return [self.trials[number] for number in sorted(self.trials)]

    def _exchange(self, control: Any) -> None:
        try:
            events = ray.get(control.exchange.remote(self._stop))
        except ray.exceptions.RayError as error:
            raise KdrayError(
                f"the cluster does not answer any more ({type(error).__name__})",
                fix="The same command goes on with the trials that are left",
            ) from error
        for kind, values in events:
            if kind == "warning":
                self.sweep.view.warning(values["text"])
            elif kind == "balance":
                self.trials[values["number"]]["balance"] = values

    def _fit(self, control: Any, unfinished: Sequence[Trial]) -> None:
        try:
            self._tune(control, unfinished)
        except BaseException as error:  # handed to the waiting thread
            self.error = self.error or error

    def _tune(self, control: Any, unfinished: Sequence[Trial]) -> None:
        sweep = self.sweep
        if sweep.population is not None:
            suggest = sweep.population(self._begin, self._stopping)
        else:
            suggest = Suggest(
                sweep.sampler,
                known=max(self.trials, default=-1) + 1,
                unfinished=unfinished,
                wanted=sweep.wanted,
                concurrent=sweep.slots.concurrent,
                on_new=self._begin,
                stopping=self._stopping,
            )
        suggest.room, most_pending = self._room, sweep.slots.most
        if isinstance(sweep.scheduler, HyperBandScheduler) and sweep.wanted is not None:
            # A bracket is cut when all that is in it has come so far: all must be there, and take turns on the places.
            most_pending = whole = sweep.wanted
            suggest.room = lambda: whole
        fit(
            tune.with_parameters(TrialProcess, work=self.work, control=control),
            sweep.slots.bundles,
            suggest,
            sweep.scheduler,
            callback=self,
            over=lambda: self._stop and not self._has_processes(),
            reuse=sweep.reuse,
            max_failures=sweep.max_failures,
            most_pending=most_pending,
            scratch=scratch(sweep.store, sweep.folder, sweep.scheduler),
        )

    @property
    def _stop(self) -> bool:
        """Whether trials are to save their state and end: the user wants it, or they can no longer be kept book of."""
        return self.error is not None or self.sweep.listener.stop_requested()

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()  # Ray Tune pickles its callbacks into a state of its own, which nobody reads

    def _runs(self) -> bool:
        """Whether any trial has a process."""
        return any(trial["state"] == "running" for trial in list(self.trials.values()))

    def _has_processes(self) -> bool:
        """Whether Ray Tune has a process for any trial: not for one that it paused, or whose process is to come."""
        return any(trial.status == RUNNING for trial in self.its)

    def _room(self) -> int:
        if time.monotonic() > self._looked_s + LOOK_S:
            self._looked_s = time.monotonic()
            self._asked = self.sweep.slots.asked(nodes_of(ray.nodes()))
        return self._asked

    def _stopping(self) -> bool:
        late = self.sweep.deadline is not None and time.time() > self.sweep.deadline
        return late or self._stop

    # -- told by Ray Tune, in its thread -------------------------------------------------------------------------------

    def _told(self, what: Callable[[], None]) -> None:
        """Do `what`; an error is the sweep's, and not for Ray Tune to wrap."""
        try:
            what()
        except Exception as error:
            self.error = self.error or error

    def _begin(self, trial_id: str, trial: Trial) -> None:
        self.by_id[trial_id] = self.trials[trial["number"]] = trial
        self._told(lambda: self._put(trial))

    def _put(self, trial: Trial) -> None:
        self.sweep.journal.put(trial)
        self.sweep.view.update(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """All trials, whatever became of them."""
        self.its = trials

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The process of a trial died, and Ray Tune looks for a place for another."""
        mine = self.by_id[trial.trial_id]
        mine["state"] = "waiting"
        self._told(lambda: self._put(mine))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A process was given to a trial."""
        mine = self.by_id[trial.trial_id]
        mine["attempts"] += 1
        mine["state"] = "running"
        mine["started"] = mine["started"] or now()
        mine["accelerators"] = self.sweep.slots.accelerators
        if self.sweep.artifact is not None:
            mine["artifact"] = self.sweep.artifact(mine["number"])
        self.earlier_s[mine["number"]] = mine["wall_s"]
        self._told(lambda: self._put(mine))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial finished an epoch, or ended by itself."""
        mine = self.by_id[trial.trial_id]
        told = json.loads(result[TOLD])
        take_rows(mine, told["rows"], self.sweep.goal)
        mine["wall_s"] = self.earlier_s.get(mine["number"], 0.0) + told["wall_s"]
        if told["ended"] is not None:
            mine["state"], mine["error"] = told["ended"], told.get("error")
            if mine["state"] == "done" and mine["value"] is None and self.sweep.needs_value:
                mine["state"], mine["error"] = "failed", f"it never reported a finite {self.sweep.goal.metric}"
            mine["ran"] = told.get("facts")
        if told.get("spoiled"):
            trial.max_failures = 0  # its process ends by an error, which is not to be tried again
        self._told(lambda: self._put(mine))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is over; one that said nothing of an end was stopped by the scheduler."""
        mine = self.by_id[trial.trial_id]
        if mine["state"] == "running":
            mine["state"] = "stopped"
        self._told(lambda: self._end(mine))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died more often than is allowed, or ends because the trial failed."""
        mine = self.by_id[trial.trial_id]
        if mine["state"] != "failed":
            error = trial.get_pickled_error()
            died = error is None or isinstance(innermost(error), ray.exceptions.RayActorError)
            reason = None if died else reason_of(error)
            times = f"{mine['attempts']} times" if mine["attempts"] > 1 else "once"
            said = "its process was killed, crashed or ran out of memory" if reason is None else reason.text
            # What the store or the cluster did not take may be taken by the next command.
            passing = reason is not None and isinstance(reason.raised, StoreError | ClusterError)
            mine["state"], mine["error"] = "waiting" if passing else "failed", f"ended {times}: {said}"
        self._told(lambda: self._end(mine))

    def _end(self, mine: Trial) -> None:
        if mine["state"] in ENDED:
            mine["finished"] = now()
            self.sweep.sampler.tell(mine)
        self._put(mine)
        if self.sweep.on_end is not None:
            self.sweep.on_end(mine)
