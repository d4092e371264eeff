"""The cells of a matrix side by side: stages that do not wait for one another, as many as the cluster holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdray.errors import Interrupted
from kdray.pipeline.plan import Plan
from kdray.pipeline.searching import slots_for
from kdray.pipeline.shelf import RUNS
from kdray.pipeline.stages import Stage
from kdray.store import Store
from kdray.train.job import Listener
from kdray.tune.journal import Journal
from kdray.tune.suggest import Given
from kdray.tune.sweep import Sweep
from kdray.tune.trials import Goal, Trial, new_trial
from kdray.tune.views import ViewMaker
from kdray.tune.work import CellWork

FOLDER = "cells"


def run_cells(
    plan: Plan, stages: Sequence[Stage], store: Store, seen_by: dict[str, Any], listener: Listener, view: ViewMaker
) -> dict[str, str]:
    """Run `stages`, none of which waits for another; returns what the failed ones said, by stage.

    What is done is known by its artifact: a later command runs the others, each from its own checkpoint.

    Raises:
        Interrupted: the user stopped it; every cell's state is saved.
    """
    if not stages:
        return {}
    validated = all(stage.spec.dataset.validation is not None for stage in stages)
    goal = Goal("val/top1", "max") if validated else Goal("loss/total", "min")
    slots = slots_for(plan.comparison.cluster, plan.stream, len(stages), None)
    specs = [stage.spec for stage in stages]
    work = CellWork(
        goal=goal,
        cluster=slots.cluster,
        shares=slots.shares,
        seen_by={**seen_by, "accelerators": slots.accelerators},
        stages=specs,
    )
    epochs = max((spec.train.epochs for spec in specs if spec.train is not None), default=0)
    folder = f"{RUNS}/{plan.run_id}/{FOLDER}-{stages[0].kind}"
    journal = Journal(store, folder)
    with view(goal.metric, goal.mode, len(stages), epochs) as shown:
        try:
            trials = Sweep(
                work=work,
                goal=goal,
                sampler=Given(),
                slots=slots,
                journal=journal,
                store=store,
                folder=folder,
                known=[new_trial(number, {"stage": stage.name}, {}) for number, stage in enumerate(stages)],
                view=shown,
                listener=listener,
                wanted=len(stages),
                max_failures=plan.comparison.cluster.max_failures,
                needs_value=False,
                artifact=lambda number: store.path_uri(specs[number].folder),
            ).run()
        finally:
            journal.close()
    if listener.stop_requested():
        raise Interrupted(f"stopped with {len(_left(trials, stages))} of {len(stages)} cells left, their state saved")
    return {stages[trial["number"]].name: str(trial["error"]) for trial in trials if trial["state"] != "done"}


def _left(trials: Sequence[Trial], stages: Sequence[Stage]) -> list[Stage]:
    done = {trial["number"] for trial in trials if trial["state"] == "done"}
    return [stage for number, stage in enumerate(stages) if number not in done]
