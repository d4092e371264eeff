"""Running a plan: stage after stage; what is done is not done again."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from kdray.errors import Interrupted, KdrayError, StoreError
from kdray.experiment import Experiment, to_yaml
from kdray.experiment.search_part import Search
from kdray.objectives.search_space import space_of
from kdray.pipeline.cells import cell_levels
from kdray.pipeline.checks import with_shares
from kdray.pipeline.estimate import Estimate
from kdray.pipeline.naming import in_variant
from kdray.pipeline.plan import Plan
from kdray.pipeline.record import now, start_record, write_record
from kdray.pipeline.shelf import RUNS
from kdray.pipeline.stages import Stage
from kdray.store import Store
from kdray.train.job import Listener
from kdray.tune.trials import ENDED
from kdray.tune.views import ViewMaker, silent


def run_plan(
    plan: Plan,
    listener: Listener,
    *,
    command: list[str] | None = None,
    on_stage: Callable[[Stage], None] | None = None,
    view: ViewMaker = silent,
) -> dict[str, Any]:
    """Run every stage that is not done and return the run's record, which is written after every stage.

    The stage that an experiment's `search:` is about becomes the winner's, after the search. `view` shows trials.

    The record of a finished run stays as it is: it says when, where and with what versions the run took place.

    Raises:
        KdrayError: a stage that failed, or a teacher below its floor; what failed is in the record.
    """
    store = Store(plan.comparison.storage)
    on_stage = on_stage or (lambda _: None)
    before = _finished_before(plan)
    if before is not None:
        results = {result["stage"]: result for result in before["stages"]}
        for stage, _ in plan.stages:
            on_stage(replace(stage, done=True))
            _check_floor(plan, stage, results[stage.name])
        matrix = plan.comparison.matrix
        if matrix is not None and before.get("matrix") != matrix.plain():  # another baseline, other published numbers
            before |= {"matrix": matrix.plain(), "experiment": plan.comparison.plain()}
            write_record(store, before)
        search = plan.comparison.first.search
        if search is not None and search.mlflow is not None and before["search"].get("mlflow_uri") != search.mlflow:
            from kdray.pipeline.search_stage import send_again

            send_again(store, before, search.mlflow)
        return before | {"stages": [result | {"reused": True} for result in before["stages"]]}
    record = start_record(plan, command or [])
    folder = f"{RUNS}/{plan.run_id}"
    store.write_text(f"{folder}/experiment.yaml", to_yaml(plan.comparison))
    # It names the artifacts before the first begins: a later command goes on with these, not with older ones.
    write_record(store, record)
    started = time.perf_counter()
    try:
        execution = _Execution(plan, store, record, listener, on_stage, view)
        execution.run()
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        record |= {"status": "interrupted" if stopped else "failed", "error": _one_line(error)}
        with suppress(StoreError):  # the store may be what failed; the error that is raised says so
            write_record(store, record)
        if isinstance(error, Interrupted):
            again = "The same command without --fresh" if plan.fresh else "The same command"
            raise Interrupted(error.problem, fix=f"{again} goes on from there") from None
        if isinstance(error, Exception) and not isinstance(error, KdrayError):
            raise _unexpected(error, store, folder) from error
        raise
    record |= {"status": "failed" if execution.failed else "done", "finished": now()}
    record |= {"wall_s": time.perf_counter() - started}
    write_record(store, record)
    return record


def check_cells(record: dict[str, Any]) -> None:
    """Raise KdrayError for cells of a matrix that failed, once its table is printed."""
    failed = record.get("failed") or {}
    if failed:
        stage, said = next(iter(failed.items()))
        raise KdrayError(
            f"{len(failed)} of the matrix's {len(record['planned'])} stages failed, first {stage}: {said}",
            fix="The same command runs these again, and no other",
        )


def needs_cluster(plan: Plan) -> bool:
    """Whether anything is left to be run."""
    searched = plan.comparison.first.search is not None
    return _finished_before(plan) is None and (searched or any(not stage.done for stage, _ in plan.stages))


def _finished_before(plan: Plan) -> dict[str, Any] | None:
    """The record of this run when it ended well with just these artifacts."""
    earlier = plan.earlier
    if earlier is None or earlier.get("status") != "done":
        return None
    search = plan.comparison.first.search
    if search is not None:
        return earlier if _search_ended(plan.comparison.first, search, earlier) else None
    if not all(stage.done for stage, _ in plan.stages):
        return None
    return earlier if earlier["planned"] == {stage.name: stage.spec.folder for stage, _ in plan.stages} else None


def _search_ended(experiment: Experiment, search: Search, record: dict[str, Any]) -> bool:
    """Whether the run of `record` made all trials that `search` asks for by now, or had no more time for them, and ran
    as many in full as it asks for."""
    made = record.get("search")
    if made is None:
        return False
    if search.transfer is not None and (made["transfer"] or {}).get("check", 0) < search.transfer.check:
        return False
    late = made["out_of_time"] and made["max_hours"] == search.max_hours
    return late or sum(trial["state"] in ENDED for trial in made["trials"]) >= search.wanted(space_of(experiment))


@dataclass
class _Execution:
    """One run of a plan's stages, and what became of them so far."""

    plan: Plan
    store: Store
    record: dict[str, Any]
    listener: Listener
    on_stage: Callable[[Stage], None]
    view: ViewMaker
    failed: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Run all: side by side where it is a matrix, else one after the other."""
        if self.plan.comparison.matrix is not None:
            self._matrix()
            return
        search = self.plan.comparison.first.search
        for stage, sizes in self.plan.stages:
            if search is not None and stage is self.plan.stages[-1][0]:
                self._search(search, stage, sizes)
            else:
                self._one(stage, sizes)

    def _search(self, search: Search, stage: Stage, sizes: Estimate) -> None:
        """Search, then make what was found the run's `stage`; MLflow is told when all of it is safe."""
        from kdray.pipeline.search_stage import search_stage, send_to_mlflow

        plan, store, record = self.plan, self.store, self.record
        won, facts = search_stage(plan, stage, store, record, self.listener, self.view, self._prepare)
        self._one(won, sizes)
        if search.mlflow is not None:
            send_to_mlflow(store, facts, record, search.mlflow)

    def _prepare(self, proxy: Plan) -> None:
        """Run what the student of `proxy` learns from, where that is not the run's own teacher."""
        ours = {stage.spec.folder for stage, _ in self.plan.stages}
        for stage, sizes in proxy.stages:
            if stage.kind == "teacher" and stage.spec.folder not in ours:
                self._one(replace(stage, name="teacher.proxy", title="teacher of the proxy", floor=None), sizes)

    def _one(self, stage: Stage, sizes: Estimate) -> None:
        self.on_stage(stage)
        if stage.done:
            result = self.store.read_json(f"{stage.spec.folder}/record.json")
        elif self.listener.stop_requested():
            raise Interrupted(f"stopped before stage {stage.title}")
        else:
            spec = replace(stage.spec, identity=stage.spec.identity | self.seen_by)
            with in_variant(self.plan.comparison, stage.variant):
                result = _run_stage(self.plan, replace(stage, spec=spec), self.listener)
        self._take(stage, sizes, result)

    def _take(self, stage: Stage, sizes: Estimate, result: dict[str, Any]) -> None:
        self.record["stages"].append(
            {
                **result,
                "stage": stage.name,
                "title": stage.title,
                "artifact": self.store.path_uri(stage.spec.folder),
                "reused": stage.done,
                "estimated_memory_bytes": sizes.memory_bytes,
            }
        )
        write_record(self.store, self.record)
        _check_floor(self.plan, stage, result)

    @property
    def seen_by(self) -> dict[str, Any]:
        return {"versions": self.record["versions"], "hardware": self.record["hardware"]}

    def _matrix(self) -> None:
        """A cell that fails is recorded, and the others go on."""
        sizes = {stage.name: size for stage, size in self.plan.stages}
        for level in cell_levels([stage for stage, _ in self.plan.stages]):
            ready = [stage for stage in level if not self._lacks_teacher(stage)]
            if self.plan.comparison.cluster.workers:
                from kdray.pipeline.cell_runs import run_cells

                left = [stage for stage in ready if not stage.done]
                self.failed |= run_cells(self.plan, left, self.store, self.seen_by, self.listener, self.view)
            for stage in ready:
                if stage.name not in self.failed:
                    self._cell(stage, sizes[stage.name])
            self.record["failed"] = self.failed
            write_record(self.store, self.record)

    def _cell(self, stage: Stage, sizes: Estimate) -> None:
        made = self.store.exists(f"{stage.spec.folder}/record.json")
        try:
            if made:
                self._take(stage, sizes, self.store.read_json(f"{stage.spec.folder}/record.json"))
            else:
                self._one(stage, sizes)
        except Interrupted:
            raise
        except KdrayError as error:
            self.failed[stage.name] = str(error)

    def _lacks_teacher(self, stage: Stage) -> bool:
        """Whether the teacher that `stage` learns from failed; then so does it."""
        for member in self.plan.members:
            teacher = member.names.get("teacher")
            if stage.kind == "student" and member.names.get("student") == stage.name and teacher in self.failed:
                self.failed[stage.name] = f"its teacher, {teacher}, failed"
                return True
        return False


def _run_stage(plan: Plan, stage: Stage, listener: Listener) -> dict[str, Any]:
    wanted = plan.comparison.cluster
    if wanted.workers == 0:
        from kdray.train.worker import StageWorker

        return StageWorker(with_shares(stage.spec, None, use_ray=False), listener).run()
    import ray

    from kdray.train.cluster import check_gpus, with_gpus
    from kdray.train.shares import nodes_of, shares_here
    from kdray.train.trainer import run_on_ray

    check_gpus(wanted)
    nodes = nodes_of(ray.nodes())
    cluster = with_gpus(wanted, sum(node.gpus for node in nodes))
    shares = shares_here(cluster, nodes, plan.stream)
    return run_on_ray(with_shares(stage.spec, shares, use_ray=True), cluster, shares, listener)


def _check_floor(plan: Plan, stage: Stage, result: dict[str, Any]) -> None:
    test = result.get("test_best") or result["test"]
    if stage.floor is not None and test is not None and test["top1"] < stage.floor:
        with in_variant(plan.comparison, stage.floor_of):
            raise KdrayError(
                f"the teacher reaches {test['top1']:.4f} top-1, below its floor of {stage.floor:.4f}",
                where="teacher.min_accuracy",
                fix="Check its weights and its mean and std (teacher.mean, teacher.std), or lower the floor",
            )


def _unexpected(error: Exception, store: Store, folder: str) -> Exception:
    """What to raise for an error that is nobody's input: one line, and its traceback beside the record."""
    if isinstance(error, torch.OutOfMemoryError):
        problem, fix = "the GPU's memory is full", "Lower train.batch, or raise train.accumulate. "
    else:
        problem, fix = _one_line(error), ""
    try:
        store.write_text(f"{folder}/traceback.txt", "".join(traceback.format_exception(error)))
    except StoreError:
        return error
    return KdrayError(problem, fix=f"{fix}Traceback: {store.path_uri(f'{folder}/traceback.txt')}")


def _one_line(error: BaseException) -> str:
    if isinstance(error, KdrayError):
        return str(error)
    text = str(error).strip().splitlines()
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))  # the loop notes the step
    return (f"{type(error).__name__}: {text[0]}" if text else type(error).__name__) + notes
