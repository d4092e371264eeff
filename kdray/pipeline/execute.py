"""Running an experiment: data, plan, checks, then stage after stage; what is done is not done again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdray.data.dataset import Dataset, open_dataset
from kdray.data.feed import will_stream
from kdray.errors import InputError, KdrayError
from kdray.experiment import Experiment, to_yaml
from kdray.pipeline.checks import check_devices, check_stage, check_storage, local_shares, with_shares
from kdray.pipeline.declared import declared_dataset
from kdray.pipeline.estimate import Estimate, estimate
from kdray.pipeline.record import RUNS, now, start_record, write_record
from kdray.pipeline.stages import Stage, generation, plan_stages, run_digest
from kdray.store import Store
from kdray.train.environment import cluster_address, prepare_environment
from kdray.train.job import Listener

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A checked experiment, ready to run. `not_checked` says what could not be reached (dry runs only)."""

    experiment: Experiment
    digest: str
    dataset: Dataset
    stages: list[tuple[Stage, Estimate]]
    stream: bool
    not_checked: list[str]


def make_plan(experiment: Experiment, fresh: bool = False, dry: bool = False) -> Plan:
    """Check `experiment` against its data, models, storage and this machine, and plan its stages.

    Raises:
        InputError: the first thing that cannot work.
    """
    not_checked: list[str] = []
    try:
        dataset = open_dataset(experiment.data)
    except InputError as error:
        dataset_or_none = declared_dataset(experiment.data) if dry else None
        if dataset_or_none is None:
            raise
        dataset = dataset_or_none
        not_checked.append(f"data: {error}")
    check_devices_unless_dry(experiment, dry, not_checked)
    stages = plan_stages(experiment, dataset, fresh)
    world = max(1, experiment.cluster.workers)
    sized = [(stage, estimate(stage.spec, world)) for stage in stages]
    for stage, sizes in sized:
        check_stage(stage, sizes)
    splits = [split for split in (dataset.train, dataset.validation, dataset.test) if split is not None]
    stream = any(will_stream(experiment.data, split.manifest, len(split)) for split in splits)
    local_shares(experiment, stream)
    try:
        check_storage(experiment, sized)
    except InputError as error:
        if not (dry and "://" in experiment.storage):
            raise
        not_checked.append(f"storage: {error}")
    return Plan(experiment, run_digest(experiment), dataset, sized, stream, not_checked)


def check_devices_unless_dry(experiment: Experiment, dry: bool, not_checked: list[str]) -> None:
    """GPUs that this machine lacks stop a run; a dry run of a cluster's experiment is told."""
    try:
        check_devices(experiment.cluster)
    except InputError as error:
        if not dry:
            raise
        not_checked.append(f"devices: {error}")


def run_plan(
    plan: Plan,
    listener: Listener,
    *,
    fresh: bool = False,
    run_id: str | None = None,
    command: list[str] | None = None,
    on_stage: Callable[[Stage], None] | None = None,
) -> dict[str, Any]:
    """Run every stage that is not done and return the run's record, which is written after every stage.

    Raises:
        KdrayError: a stage that failed, or a teacher below its floor.
    """
    experiment = plan.experiment
    store = Store(experiment.storage)
    run_id = run_id or _run_id(store, experiment.name, plan.digest, fresh)
    record = start_record(experiment, run_id, plan.digest, plan.dataset, command or [])
    store.write_text(f"{RUNS}/{run_id}/experiment.yaml", to_yaml(experiment))
    write_record(store, record)
    started = time.perf_counter()
    for stage, sizes in plan.stages:
        if on_stage:
            on_stage(stage)
        result = _finished(store, stage) if stage.done else _run_stage(plan, stage, listener)
        record["stages"].append(
            {
                **result,
                "title": stage.title,
                "artifact": store.path_uri(stage.spec.folder),
                "reused": stage.done,
                "estimated_memory_bytes": sizes.memory_bytes,
            }
        )
        write_record(store, record)
        if stage.name == "teacher":
            _check_floor(experiment, result)
    record["finished"] = now()
    record["wall_s"] = time.perf_counter() - started
    record["uri"] = store.path_uri(f"{RUNS}/{run_id}/record.json")
    write_record(store, record)
    return record


def connect_in_background(experiment: Experiment) -> Callable[[], None]:
    """Start Ray beside the checks, which need none of it; the returned function waits for it and raises its error."""
    if experiment.cluster.workers == 0:
        return lambda: None
    prepare_environment(local=cluster_address(experiment.cluster) is None)
    failure: list[BaseException] = []
    connected = threading.Event()

    def work() -> None:
        from kdray.train.cluster import connect

        try:
            connect(experiment.cluster)
        except BaseException as error:  # re-raised where the cluster is needed
            failure.append(error)
        connected.set()
        # Ray's servers end with the thread that started them (Linux ties a child's death signal to it), not with the
        # process: this one must stay.
        threading.Event().wait()

    threading.Thread(target=work, name="ray-connect", daemon=True).start()

    def wait() -> None:
        connected.wait()
        if failure:
            raise failure[0]

    return wait


def _run_stage(plan: Plan, stage: Stage, listener: Listener) -> dict[str, Any]:
    experiment = plan.experiment
    if experiment.cluster.workers == 0:
        from kdray.train.worker import StageWorker

        return StageWorker(with_shares(stage.spec, None, use_ray=False), listener).run()
    import ray

    from kdray.train.cluster import check_gpus, shares_here, with_gpus
    from kdray.train.trainer import run_on_ray

    check_gpus(experiment.cluster)
    resources = ray.cluster_resources()
    cluster = with_gpus(experiment.cluster, resources.get("GPU", 0.0))
    shares = shares_here(cluster, resources.get("CPU", 0.0), plan.stream)
    return run_on_ray(with_shares(stage.spec, shares, use_ray=True), cluster, shares, listener)


def _finished(store: Store, stage: Stage) -> dict[str, Any]:
    return store.read_json(f"{stage.spec.folder}/record.json")


def _check_floor(experiment: Experiment, result: dict[str, Any]) -> None:
    floor = experiment.teacher.min_accuracy if experiment.teacher else None
    test = result.get("test_best") or result["test"]
    if floor is not None and test is not None and test["top1"] < floor:
        raise KdrayError(
            f"the teacher reaches {test['top1']:.4f} top-1, below its floor of {floor:.4f}",
            where="teacher.min_accuracy",
            fix="Check its weights and its mean and std (teacher.mean, teacher.std), or lower the floor",
        )


def _run_id(store: Store, name: str, digest: str, fresh: bool) -> str:
    """`name-digest`, and with --fresh a number behind it that no run has yet."""
    stem = f"{name}-{digest[:8]}"
    newest = max((generation(entry, stem) for entry in store.list(RUNS)), default=0)
    number = newest + 1 if fresh else max(newest, 1)
    return stem + (f".{number}" if number > 1 else "")
