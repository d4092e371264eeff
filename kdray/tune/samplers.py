"""New points of a space: drawn at random, one after the other from a grid, or by Optuna from what is known.

What a sampler asks is a function of the seed, the trial's number and what it was told before: a resumed search goes on
as if it had never stopped (CMA-ES as from what it knows).
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import optuna

from kdray.experiment.search_part import Searcher
from kdray.experiment.space import Space
from kdray.tune import sampling
from kdray.tune.suggest import Sampler
from kdray.tune.trials import Goal, Trial, new_trial

PRUNED = optuna.trial.TrialState.PRUNED
STATES = {"done": optuna.trial.TrialState.COMPLETE, "stopped": PRUNED, "failed": optuna.trial.TrialState.FAIL}


def make_sampler(searcher: Searcher, space: Space, seed: int, goal: Goal) -> Sampler:
    """The sampler that `searcher` describes."""
    if searcher.type == "random":
        return Random(space, seed)
    if searcher.type == "grid":
        return Grid(space)
    return Optuna(searcher, space, seed, goal)


class Random:
    """Independent draws."""

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed

    def ask(self, number: int) -> Trial | None:
        parameters = sampling.draw(self.space, random.Random(f"{self.seed}/{number}"))
        return new_trial(number, parameters, self.space.changes(parameters))

    def tell(self, trial: Trial) -> None: ...

    def resume(self, trial: Trial) -> None: ...


class Grid(Random):
    """Every combination once."""

    def __init__(self, space: Space) -> None:
        super().__init__(space, 0)
        self.points = sampling.grid(space)

    def ask(self, number: int) -> Trial | None:
        if number >= len(self.points):
            return None
        return new_trial(number, self.points[number], self.space.changes(self.points[number]))


class Optuna:
    """TPE, a Gaussian process or CMA-ES over all that is known, of this command and of those before it."""

    def __init__(self, searcher: Searcher, space: Space, seed: int, goal: Goal) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.seed, self.goal = space, seed, goal
        self._make = _maker(searcher)
        self._earlier: list[optuna.trial.FrozenTrial] = []
        self._study = optuna.create_study(
            direction="maximize" if goal.mode == "max" else "minimize", sampler=self._make(seed, [])
        )
        self._open: dict[int, optuna.trial.Trial] = {}

    def ask(self, number: int) -> Trial | None:
        # A sampler of its own for every number: nothing depends on how many draws came before in this process.
        self._study.sampler = self._make(random.Random(f"{self.seed}/{number}").getrandbits(32), self._earlier)
        opened = self._ask()
        parameters = sampling.ask(self.space, opened)
        self._open[number] = opened
        return new_trial(number, parameters, self.space.changes(parameters)) | {"sampler": self._attributes(opened)}

    def resume(self, trial: Trial) -> None:
        self._study.sampler = optuna.samplers.RandomSampler()  # all is known: nothing is drawn, or noted with the trial
        self._study.enqueue_trial(trial["parameters"])
        opened = self._ask()
        sampling.ask(self.space, opened)
        for key, value in trial.get("sampler", {}).items():
            self._study._storage.set_trial_system_attr(opened._trial_id, key, value)
        self._open[trial["number"]] = opened

    def tell(self, trial: Trial) -> None:
        state, steps = STATES[trial["state"]], self._steps(trial)
        if trial["value"] is None:
            state = optuna.trial.TrialState.FAIL
        opened = self._open.pop(trial["number"], None)
        value = trial["value"] if state == STATES["done"] else None
        if opened is not None:
            for epoch, each in steps.items():
                opened.report(each, epoch)
            self._study.tell(opened, value, state=state)
            return
        known = optuna.trial.create_trial(
            state=state,
            value=value,
            params=trial["parameters"],
            distributions=sampling.distributions(self.space, trial["parameters"]),
            intermediate_values=steps,
            system_attrs=trial.get("sampler", {}),
        )
        self._study.add_trial(known)
        if state == STATES["done"]:
            self._earlier.append(known)

    def _ask(self) -> optuna.trial.Trial:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # optuna's of experimental options, at every call
            return self._study.ask()

    def _attributes(self, opened: optuna.trial.Trial) -> dict[str, Any]:
        """What TPE keeps with a trial, and a resumed search needs: what it drew for alternatives that were not taken.

        CMA-ES keeps a pickle, which is not to be read back from a store. It begins a population anew, where the best
        of the trials before lie.
        """
        attributes = self._study._storage.get_trial(opened._trial_id).system_attrs
        return {key: value for key, value in attributes.items() if key.startswith("tpe")}

    def _steps(self, trial: Trial) -> dict[int, float]:
        values = {int(row["epoch"]): row.get(self.goal.metric) for row in self.goal.counted(trial["history"])}
        return {epoch: float(value) for epoch, value in values.items() if value is not None}


def _maker(searcher: Searcher) -> Callable[[int, list[optuna.trial.FrozenTrial]], optuna.samplers.BaseSampler]:
    """A function from a seed, and the trials of earlier commands, to Optuna's sampler."""

    def make(seed: int, earlier: list[optuna.trial.FrozenTrial]) -> optuna.samplers.BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if searcher.type == "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=searcher.startup)
            if searcher.type == "cma_es":
                known = earlier or None
                return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=searcher.startup, source_trials=known)
            return optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=searcher.startup,
                multivariate=searcher.multivariate,
                group=searcher.multivariate,
                constant_liar=True,  # several trials at a time: what still runs is no place to go to again
            )

    return make
