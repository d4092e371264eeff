"""`search:` of an experiment: trials, the winner, and what is left for people to look at."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray

from kdray.data.dataset import Dataset
from kdray.errors import Interrupted, KdrayError
from kdray.experiment import Cluster, Experiment
from kdray.experiment.changes import with_changes
from kdray.experiment.search_part import Scheduler, Search, Transfer
from kdray.objectives.search_space import space_of
from kdray.pipeline.members import is_judged
from kdray.pipeline.plan import Plan, make_plan
from kdray.pipeline.search_work import SearchWork
from kdray.pipeline.winner import winner_of
from kdray.store import Store
from kdray.train.cluster import with_gpus
from kdray.train.environment import cluster_address
from kdray.train.job import Listener
from kdray.train.shares import nodes_of
from kdray.tune.journal import Journal
from kdray.tune.population import Population
from kdray.tune.samplers import make_sampler
from kdray.tune.schedule import make_scheduler, remember
from kdray.tune.slots import Slots, find_slots, room_to_grow
from kdray.tune.suggest import Given, Sampler, Suggest
from kdray.tune.sweep import Sweep
from kdray.tune.transfer import in_words, rank_correlation, to_check
from kdray.tune.trials import ENDED, Goal, Trial, best_trial, new_trial, wall_of
from kdray.tune.views import ViewMaker

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
    """The search of `plan`'s experiment, on the cluster that is connected. `prepare` makes what trials of another plan,
    a proxy's, learn from."""

    def __init__(
        self,
        plan: Plan,
        listener: Listener,
        view: ViewMaker,
        seen_by: dict[str, Any],
        store: Store,
        folder: str,
        prepare: Callable[[Plan], None],
    ) -> None:
        self.plan = plan
        self.experiment = plan.comparison.first
        search = self.experiment.search
        assert search is not None
        self.search = search
        self.listener, self.view, self.seen_by, self.prepare = listener, view, seen_by, prepare
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
        plan = self.plan if self.search.transfer is None else self._proxy(self.search.transfer)
        slots = self._slots(plan)
        trials = self._sweep(plan, self.folder, slots)
        best = self._best(trials)
        facts = self._facts(trials, best, slots, epochs_of(plan.comparison.first))
        folder, won = self.folder, best
        if self.search.transfer is not None:
            folder = f"{self.folder}-full"
            won, facts["transfer"] = self._transferred(self.search.transfer, trials, folder)
            facts["best"] = won["number"]
            slots = self._slots(self.plan)
        return Found(facts, winner_of(self.experiment, won, slots), won, artifact_of(folder, won["number"]))

    def _facts(self, trials: list[Trial], best: Trial, slots: Slots, epochs: int) -> dict[str, Any]:
        search = self.search
        ended = [trial for trial in trials if trial["state"] in ENDED]
        searcher = {"type": search.searcher.type, **search.searcher.canonical()}
        return {
            "metric": search.metric,
            "mode": self.goal.mode,
            "at": search.at.model_dump(exclude_none=True) if search.at is not None else None,
            "searcher": searcher if search.scheduler.type != "pbt" else {"type": "random"},
            "scheduler": {"type": search.scheduler.type, **search.scheduler.canonical()},
            "space": self.space.texts(),
            "seed": self.seed,
            "wanted": search.wanted(self.space),
            "max_epochs": epochs,
            "concurrent": slots.held(nodes_of(ray.nodes())),
            "cpus_per_trial": slots.shares.worker_cpus * slots.cluster.workers,
            "gpus_per_trial": (slots.cluster.gpus_per_worker or 0.0) * slots.cluster.workers,
            "trials": trials,
            "best": best["number"],
            "transfer": None,
            "max_hours": search.max_hours,
            "out_of_time": search.max_hours is not None and len(ended) < search.wanted(self.space),
            "wall_s": wall_of(trials),
        }

    def _best(self, trials: list[Trial]) -> Trial:
        """The best of those that trained to the end; where none did, of those that were stopped."""
        best = best_trial(trials, self.goal) or best_trial(trials, self.goal, ("stopped", "waiting"))
        if best is None:
            raise _nothing(trials)
        return best

    def _slots(self, plan: Plan) -> Slots:
        wanted = self.search.wanted(self.space)
        return slots_for(self.experiment.cluster, plan.stream, wanted, self.search.concurrent)

    def _sweep(self, plan: Plan, folder: str, slots: Slots, given: list[Trial] | None = None) -> list[Trial]:
        """All trials of the search or, with `given`, these, without a scheduler."""
        journal = Journal(self.store, folder)
        known = journal.load()
        if given is not None:
            there = {trial["number"]: trial for trial in known}
            known = [there.get(trial["number"], trial) for trial in given]
        epochs = self.goal.epochs or epochs_of(plan.comparison.first)
        wanted = self.search.wanted(self.space) if given is None else len(given)
        asked = self.search.scheduler if given is None else Scheduler()
        scheduler = make_scheduler(asked, self.goal.mode, epochs)
        ended = [trial for trial in known if trial["state"] in ENDED]
        remember(scheduler, ended, [trial for trial in known if trial not in ended], self.goal.metric)
        work = search_work(plan, self.goal, slots, self.seen_by, self.store, folder)
        hours = self.search.max_hours
        if given is None and self._had_its_time(hours):
            hours = 0.0  # another command asks for something else of it

        def on_end(trial: Trial) -> None:
            # Workers elsewhere may still be writing; theirs go when all have ended.
            if trial["state"] in ENDED and work.in_process:
                journal.flush()  # first: a trial whose state is gone must not be gone on with
                work.forget_checkpoints(trial["number"])

        def keep(trial: Trial) -> None:
            journal.put(trial)
            journal.flush()

        def population(on_new: Callable[[str, Trial], None], stopping: Callable[[], bool]) -> Suggest:
            return Population(
                known,
                asked,
                self.space,
                self.goal,
                self.seed,
                max_epochs=epochs,
                size=wanted,
                store=self.store,
                folder_of=work.artifact,
                keep=keep,
                concurrent=slots.concurrent,
                on_new=on_new,
                stopping=stopping,
            )

        sampler: Sampler = Given()
        if given is None:
            sampler = make_sampler(self.search.searcher, self.space, self.seed, self.goal)
        with self.view(self.search.metric, self.goal.mode, wanted, epochs) as view:
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
                    population=population if asked.type == "pbt" else None,
                ).run()
            finally:
                journal.close()
        if not work.in_process:
            for trial in trials:
                if trial["state"] in ENDED:
                    work.forget_checkpoints(trial["number"])
        if self.listener.stop_requested():
            count = sum(trial["state"] in ENDED for trial in trials)
            raise Interrupted(f"stopped with {count} of {wanted} trials ended, the state of the others saved")
        return trials

    def _had_its_time(self, hours: float | None) -> bool:
        """Whether an earlier command ended this search because `hours` were over."""
        made = (self.plan.earlier or {}).get("search") or {}
        return bool(made.get("out_of_time")) and made.get("max_hours") == hours

    # -- a proxy -------------------------------------------------------------------------------------------------------

    def _proxy(self, transfer: Transfer) -> Plan:
        plain = self.experiment.model_copy(update={"search": None})
        plan = make_plan(with_changes(plain, transfer.set, "search.transfer.set"))
        self.prepare(plan)
        return replace(plan, weights={**self.plan.weights, **plan.weights})

    def _transferred(self, transfer: Transfer, trials: list[Trial], folder: str) -> tuple[Trial, dict[str, Any]]:
        """Run some of the proxy's trials on the whole experiment, the best half and others of all ranks: the best of
        them there, and how well the proxy foretold their order."""
        foretold = {trial["number"]: trial for trial in trials}
        chosen = to_check(trials, self.goal, transfer.check)
        earlier = {trial["number"] for trial in Journal(self.store, folder).load()}  # where fewer were to be checked
        chosen += [foretold[number] for number in sorted(earlier - {each["number"] for each in chosen})]
        given = [new_trial(each["number"], each["parameters"], each["changes"]) for each in chosen]
        whole = self._sweep(self.plan, folder, self._slots(self.plan), given)
        pairs = [
            {
                "trial": each["number"],
                "proxy": foretold[each["number"]]["value"],
                "proxy_state": foretold[each["number"]]["state"],
                "full": each["value"],
            }
            for each in whole
            if each["value"] is not None and each["state"] in ("done", "stopped")
        ]
        ranks = rank_correlation(pairs, self.goal.mode)
        facts = {
            "set": dict(transfer.set),
            "check": transfer.check,
            "checked": pairs,
            **ranks,
            "words": in_words(pairs, ranks),
            "max_epochs": epochs_of(self.experiment),
            "trials": whole,
        }
        return self._best(whole), facts


def epochs_of(experiment: Experiment) -> int:
    """Epochs of what is searched: the student's training or, without one, the teacher's."""
    own = experiment.teacher.train if experiment.student is None and experiment.teacher is not None else None
    return (own or experiment.train).epochs


def artifact_of(folder: str, number: int) -> str:
    """The folder of the artifact of trial `number`."""
    return f"{folder}/artifacts/{number:05d}"


def search_work(plan: Plan, goal: Goal, slots: Slots, seen_by: dict[str, Any], store: Store, folder: str) -> SearchWork:
    """The work of trials of `plan`'s only experiment; a teacher that it trains must be there when they begin."""
    (member,) = plan.members
    taught = next((stage.spec.folder for stage, _ in plan.stages if stage.kind == "teacher"), None)
    experiment = member.experiment.model_copy(update={"search": None})
    dataset: Dataset = member.dataset
    return SearchWork(
        goal=goal,
        cluster=slots.cluster,
        shares=slots.shares,
        seen_by={**seen_by, "accelerators": slots.accelerators},
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
    if cluster_address(cluster) is not None:  # a trial's process, on another node, does not know it
        settled = settled.model_copy(update={"address": "auto"})
    asked = 10**6 if wanted is None else wanted
    now = find_slots(settled, nodes, stream, asked, limit)
    worker = {"CPU": now.shares.worker_cpus, "GPU": settled.gpus_per_worker or 0.0}
    trial = {name: amount * settled.workers for name, amount in worker.items()}
    trial["CPU"] += now.shares.data_cpus * settled.workers
    maxima = ray._private.state.state.get_max_resources_from_cluster_config()
    return find_slots(settled, nodes, stream, asked, limit, room_to_grow(trial, maxima))


def _nothing(trials: list[Trial]) -> KdrayError:
    failed = [trial for trial in trials if trial["state"] == "failed"]
    said = f"; the first said: {failed[0]['error']}" if failed else ""
    return KdrayError(
        f"none of {len(trials)} trials came to a result, {len(failed)} failed{said}",
        where="search",
        fix="Look at the traceback.txt in the trials' artifacts, or start anew with --fresh",
    )
