"""`search:` of an experiment: trials, the winner, and what is left for people to look at."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import ray

from kdray.data.dataset import Dataset
from kdray.errors import Interrupted, KdrayError
from kdray.experiment import Cluster, Comparison, Experiment, to_yaml
from kdray.experiment.changes import with_changes
from kdray.experiment.search_part import Search
from kdray.objectives.search_space import space_of
from kdray.pipeline.members import is_judged
from kdray.pipeline.plan import Plan
from kdray.store import Store
from kdray.train.cluster import with_gpus
from kdray.train.job import Listener
from kdray.train.shares import nodes_of
from kdray.tune.journal import Journal
from kdray.tune.samplers import make_sampler
from kdray.tune.schedule import make_scheduler, remember
from kdray.tune.slots import Slots, find_slots, room_to_grow
from kdray.tune.suggest import Sampler
from kdray.tune.sweep import Sweep
from kdray.tune.trials import Goal, Trial, best_trial
from kdray.tune.views import ViewMaker
from kdray.tune.work import SearchWork

FOLDER = "search"


@dataclass(frozen=True)
class Found:
    """What a search came to: its facts for the record, and the experiment of the winner."""

    facts: dict[str, Any]
    winner: Experiment
    trial: Trial
    folder: str


def goal_of(search: Search) -> Goal:
    """What the trials of `search` are judged by."""
    at = search.at
    seconds = 60 * at.minutes if at is not None and at.minutes is not None else None
    return Goal(search.metric, search.mode, at.epochs if at is not None else None, seconds)


class Searching:
    """The search of `plan`'s experiment, on the cluster that is connected."""

    def __init__(
        self, plan: Plan, listener: Listener, view: ViewMaker, seen_by: dict[str, Any], store: Store, folder: str
    ) -> None:
        self.plan = plan
        self.experiment = plan.comparison.first
        search = self.experiment.search
        assert search is not None
        self.search = search
        self.listener, self.view, self.seen_by = listener, view, seen_by
        self.store, self.folder = store, folder
        self.goal = goal_of(search)
        self.space = space_of(self.experiment)
        self.seed = self.experiment.seed if search.searcher.seed is None else search.searcher.seed

    def run(self) -> Found:
        """Search, and choose.

        Raises:
            Interrupted: the user stopped it; what was found so far is in the journal.
            KdrayError: no trial came to a result.
        """
        started = time.perf_counter()
        wanted = self.search.wanted(self.space)
        slots = slots_for(self.experiment.cluster, self.plan.stream, wanted, self.search.concurrent)
        trials = self._sweep(
            self.plan, self.folder, slots, make_sampler(self.search.searcher, self.space, self.seed, self.goal), wanted
        )
        best = best_trial(trials, self.goal)
        if best is None:
            raise _nothing(trials)
        facts: dict[str, Any] = {
            "metric": self.search.metric,
            "mode": self.goal.mode,
            "at": self.search.at.model_dump(exclude_none=True) if self.search.at is not None else None,
            "searcher": self.search.searcher.model_dump(),
            "scheduler": self.search.scheduler.model_dump(),
            "space": self.space.texts(),
            "seed": self.seed,
            "wanted": wanted,
            "max_epochs": self.epochs,
            "concurrent": slots.concurrent,
            "cpus_per_trial": slots.shares.worker_cpus * slots.cluster.workers,
            "gpus_per_trial": (slots.cluster.gpus_per_worker or 0.0) * slots.cluster.workers,
            "trials": trials,
            "best": best["number"],
            "wall_s": time.perf_counter() - started,
        }
        return Found(facts, winner_of(self.experiment, best, slots), best, self._artifact(self.folder, best["number"]))

    @property
    def epochs(self) -> int:
        """Epochs of a whole trial."""
        own = self.experiment.teacher.train if self.experiment.student is None and self.experiment.teacher else None
        return (own or self.experiment.train).epochs

    def _sweep(self, plan: Plan, folder: str, slots: Slots, sampler: Sampler, wanted: int) -> list[Trial]:
        journal = Journal(self.store, folder)
        known = journal.load()
        scheduler = make_scheduler(self.search.scheduler, self.goal.mode, self.goal.epochs or self.epochs)
        unfinished = [trial for trial in known if trial["state"] not in ("done", "stopped", "failed")]
        remember(scheduler, [t for t in known if t not in unfinished], unfinished, self.goal.metric)
        hours = self.search.max_hours
        work = search_work(plan, self.goal, slots, self.seen_by, self.store, folder)

        def on_end(trial: Trial) -> None:
            if trial["state"] == "stopped":
                journal.flush()  # first: a trial whose state is gone must not be gone on with
                work.forget_checkpoints(trial["number"])

        with self.view(self.search.metric, self.goal.mode, wanted, self.epochs) as view:
            try:
                trials = Sweep(
                    work=work,
                    goal=self.goal,
                    sampler=sampler,
                    slots=slots,
                    journal=journal,
                    store=self.store,
                    folder=folder,
                    known=known,
                    view=view,
                    listener=self.listener,
                    wanted=wanted,
                    scheduler=scheduler,
                    deadline=time.time() + 3600 * hours if hours is not None else None,
                    max_failures=plan.comparison.cluster.max_failures,
                    artifact=lambda number: self.store.path_uri(work.artifact(number)),
                    on_end=on_end,
                ).run()
            finally:
                journal.close()
        if self.listener.stop_requested():
            ended = sum(trial["state"] in ("done", "stopped", "failed") for trial in trials)
            raise Interrupted(f"stopped after {ended} trials, the state of the others saved")
        return trials

    def _artifact(self, folder: str, number: int) -> str:
        return f"{folder}/artifacts/{number:05d}"


def search_work(
    plan: Plan, goal: Goal, slots: Slots, seen_by: dict[str, Any], store: Store, folder: str
) -> SearchWork:
    """The work of trials of `plan`'s only experiment; a teacher that it trains must be there when they begin."""
    (member,) = plan.members
    taught = next((stage.spec.folder for stage, _ in plan.stages if stage.kind == "teacher"), None)
    experiment = member.experiment.model_copy(update={"search": None})
    dataset: Dataset = member.dataset
    return SearchWork(
        goal=goal,
        cluster=slots.cluster,
        shares=slots.shares,
        seen_by=seen_by,
        experiment=experiment,
        dataset=dataset,
        kind="student" if experiment.student is not None else "teacher",
        taught=taught,
        weights=plan.weights,
        judged=is_judged(experiment, dataset),
        store=store.uri,
        folder=folder,
    )


def slots_for(cluster: Cluster, stream: bool, wanted: int | None, limit: int | None) -> Slots:
    """What the cluster that is connected holds, or would hold once it has grown."""
    nodes = nodes_of(ray.nodes())
    settled = with_gpus(cluster, sum(node.gpus for node in nodes))
    asked = 10**6 if wanted is None else wanted
    now = find_slots(settled, nodes, stream, asked, limit)
    worker = {"CPU": now.shares.worker_cpus, "GPU": settled.gpus_per_worker or 0.0}
    trial = {name: amount * settled.workers for name, amount in worker.items()}
    maxima = ray._private.state.state.get_max_resources_from_cluster_config()
    return find_slots(settled, nodes, stream, asked, limit, room_to_grow(trial, maxima))


def winner_of(experiment: Experiment, trial: Trial, slots: Slots) -> Experiment:
    """The experiment that trains the winner alone, with as many CPUs as it had: with others the sums of floats, and so
    the last digits, differ."""
    plain = experiment.model_copy(update={"search": None})
    best = with_changes(plain, trial["changes"])
    cluster = best.cluster.model_copy(update={"cpus_per_worker": slots.shares.worker_cpus})
    return best.model_copy(update={"cluster": cluster})


def adopt(store: Store, trial_folder: str, folder: str) -> None:
    """Make the whole artifact of a trial that of the stage in `folder`; one that is there already stays."""
    if store.exists(f"{folder}/record.json") or not store.exists(f"{trial_folder}/record.json"):
        return
    _copy(store, trial_folder, folder)
    record = store.read_json(f"{trial_folder}/record.json")
    store.write_json(f"{folder}/record.json", record | {"folder": folder, "trial": trial_folder})


def _copy(store: Store, source: str, target: str) -> None:
    for name in store.list(source):
        path = name.rstrip("/")
        if path in ("record.json", "checkpoints"):
            continue
        if store.list(f"{source}/{path}"):
            _copy(store, f"{source}/{path}", f"{target}/{path}")
        else:
            store.write_bytes(f"{target}/{path}", store.read_bytes(f"{source}/{path}"))


def _nothing(trials: list[Trial]) -> KdrayError:
    failed = [trial for trial in trials if trial["state"] == "failed"]
    said = f"; the first said: {failed[0]['error']}" if failed else ""
    return KdrayError(
        f"none of {len(trials)} trials came to a result, {len(failed)} failed{said}",
        where="search",
        fix="Look at the traceback.txt in the trials' artifacts, or start anew with --fresh",
    )


def best_text(found: Found, header: str) -> str:
    """best.yaml: the winner's experiment, under a header that says where it comes from."""
    return header + to_yaml(Comparison.of(found.winner.model_copy(update={"name": f"{found.winner.name}-best"})))
