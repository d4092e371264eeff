"""Population based training (Jaderberg et al., 2017, arXiv:1711.09846), generation by generation.

All trials train for some epochs and wait. Then each of the worst takes the whole state of one of the best, and other
values of the parameters from there on. Ray Tune's own scheduler for this copies Ray Tune's checkpoints, of which a
training with checkpoints of its own has none: it would report success and exploit nothing.

Between two generations nobody trains, so a state is copied as it lies in the store, and what came from where stands in
the journal before it is copied: a killed command leaves nothing half exploited.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ray.tune.search import Searcher

from kdray.experiment.search_part import Scheduler
from kdray.experiment.space import Space
from kdray.store import Store
from kdray.train.checkpoint import FOLDER as CHECKPOINTS
from kdray.tune import sampling
from kdray.tune.suggest import Suggest
from kdray.tune.trials import ENDED, Goal, Trial, new_trial


class Population(Suggest):
    """Gives Ray Tune the trials of one generation after the other, each `until` the epoch at which it waits.

    `folder_of` is where the artifact of a trial lies in `store`; `keep` journals a trial and returns when it is
    written.
    """

    def __init__(
        self,
        trials: Iterable[Trial],
        scheduler: Scheduler,
        space: Space,
        goal: Goal,
        seed: int,
        max_epochs: int,
        size: int,
        store: Store,
        folder_of: Callable[[int], str],
        keep: Callable[[Trial], None],
        concurrent: int,
        on_new: Callable[[str, Trial], None],
        stopping: Callable[[], bool],
    ) -> None:
        Searcher.__init__(self, metric="objective", mode="max")
        self._scheduler, self._space, self._goal, self._seed = scheduler, space, goal, seed
        self._max_epochs = max_epochs
        self._store, self._folder_of, self._keep = store, folder_of, keep
        self._concurrent, self._on_new, self._stopping = concurrent, on_new, stopping
        self._live: set[str] = set()
        self._ending: set[int] = set()  # sent on once more to evaluate and write what all epochs led to
        known = {trial["number"]: trial for trial in trials}
        self._trials = [known.get(number) or self._born(number) for number in range(size)]
        for trial in self._trials:
            if trial.get("adopting") is not None:  # a command that was killed in the middle of it
                self._adopt(trial)
        # Where a command was killed after the first of them was sent on, all had been decided.
        horizon = max((trial["until"] for trial in self._alive()), default=0)
        for trial in self._alive():
            trial["until"] = horizon
        # Those that stopped within a generation finish it first.
        self._queue = deque(trial for trial in self._alive() if trial["epochs"] < trial["until"])

    def suggest(self, trial_id: str) -> Any:
        """The next trial to go on; None while a generation is not over."""
        if self._stopping():
            return Searcher.FINISHED
        if self.full() or (not self._queue and self._live):
            return None
        if not self._queue and not self._next_generation():
            return Searcher.FINISHED
        trial = self._queue.popleft()
        self._live.add(trial_id)
        self._on_new(trial_id, trial)
        return {
            "number": trial["number"],
            "changes": json.dumps(trial["changes"]),
            "lineage": json.dumps(trial["lineage"]),
            "until": trial["until"],
        }

    def _born(self, number: int) -> Trial:
        parameters = sampling.draw(self._space, random.Random(f"{self._seed}/{number}"))
        changes = self._space.changes(parameters)
        first = {"from_epoch": 0, "parameters": parameters, "changes": changes, "from": None}
        until = min(self._scheduler.every_epochs, self._max_epochs)
        return new_trial(number, parameters, changes) | {"lineage": [first], "until": until, "adopting": None}

    def _alive(self) -> list[Trial]:
        return [trial for trial in self._trials if trial["state"] not in ENDED]

    def _next_generation(self) -> bool:
        """Exploit and explore, and queue everybody; False where nobody is left to train."""
        # What the store or the cluster did not let reach its end of the generation waits for the next command.
        alive = [
            trial
            for trial in self._alive()
            if trial["epochs"] >= trial["until"] and trial["number"] not in self._ending
        ]
        ready = [trial for trial in alive if self._now(trial) is not None]
        # A command that was killed here decided on some: of the worst, in this order.
        decided = [trial for trial in ready if self._is_decided(trial)]
        left = [trial for trial in ready if trial not in decided]
        ranked = sorted(left, key=lambda trial: (self._now(trial), -trial["number"]), reverse=self._goal.mode == "max")
        count = min(max(1, round(self._scheduler.quantile * len(ready))), len(ready) // 2)
        best, worst = ranked[:count], ranked[len(ranked) - max(0, count - len(decided)) :]
        for trial in worst:
            rng = random.Random(f"{self._seed}/{trial['number']}/{trial['epochs']}")
            self._exploit(trial, rng.choice(best), rng)
        for trial in alive:
            trial["until"] = min(trial["epochs"] + self._scheduler.every_epochs, self._max_epochs)
            self._keep(trial)
            if trial["epochs"] >= self._max_epochs:
                self._ending.add(trial["number"])
        self._queue.extend(sorted(alive, key=lambda trial: trial["number"]))
        return bool(alive)

    def _is_decided(self, trial: Trial) -> bool:
        """Whether it has taken another's state, and not trained since."""
        turn = trial["lineage"][-1]
        return turn["from"] is not None and turn["from_epoch"] == trial["epochs"]

    def _now(self, trial: Trial) -> float | None:
        """The metric at the end of the generation."""
        value = trial["history"][-1].get(self._goal.metric) if trial["history"] else None
        return None if value is None else float(value)

    def _exploit(self, trial: Trial, donor: Trial, rng: random.Random) -> None:
        epoch = donor["epochs"]
        parameters = sampling.perturb(self._space, donor["parameters"], rng, self._scheduler.resample)
        changes = self._space.changes(parameters)
        turn = {"from_epoch": epoch, "parameters": parameters, "changes": changes, "from": donor["number"]}
        trial |= {
            "parameters": parameters,
            "changes": changes,
            "lineage": [each for each in donor["lineage"] if each["from_epoch"] < epoch] + [turn],
            "history": [dict(row) for row in donor["history"]],
            "epochs": epoch,
            "value": donor["value"],
            "best_epoch": donor["best_epoch"],
            "adopting": donor["number"],
        }
        self._keep(trial)
        self._adopt(trial)

    def _adopt(self, trial: Trial) -> None:
        """Copy the donor's state over the trial's own."""
        source = f"{self._folder_of(trial['adopting'])}/{CHECKPOINTS}"
        target = f"{self._folder_of(trial['number'])}/{CHECKPOINTS}"
        newest = max(name for name in self._store.list(source) if name.endswith(".pt"))
        self._store.delete(target)
        self._store.write_bytes(f"{target}/{newest}", self._store.read_bytes(f"{source}/{newest}"))
        trial["adopting"] = None
        self._keep(trial)
