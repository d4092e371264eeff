"""Running a stage: in this process, or on Ray Train workers."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

import ray
import ray.exceptions
import ray.train

from kdray.errors import Interrupted, KdrayError
from kdray.experiment import Cluster
from kdray.store import Store, open_uri
from kdray.train.control import RemoteListener, WarningForwarder, start_control
from kdray.train.environment import cluster_address
from kdray.train.failure import Reason, WorkerFailure, reason_of
from kdray.train.group import GroupConfig
from kdray.train.job import Listener
from kdray.train.lean import LeanTrainer
from kdray.train.shares import Shares
from kdray.train.spec import StageSpec

log = logging.getLogger(__name__)
DRAIN_S = 0.2
RAY_FOLDER = "ray-"
FIRST_WORD_S, NEXT_WORD_S = 60.0, 300.0


def run_on_ray(stage: StageSpec, cluster: Cluster, shares: Shares, listener: Listener) -> dict[str, Any]:
    """Run `stage` on `cluster.workers` Ray Train workers and return its record.

    A worker or node that dies, or an exception that nobody planned for, ends the attempt; the next one goes on from the
    last checkpoint, up to `cluster.max_failures` times. What would only come again is not retried: an error that
    kdray raised on purpose, and an exception that comes a second time at the same step.

    Raises:
        KdrayError: what the workers raised, or Interrupted after a stop.
    """
    attempts = cluster.max_failures + 1
    before: Reason | None = None
    for attempt in range(1, attempts + 1):
        try:
            return _attempt(stage, cluster, shares, listener)
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            reason = reason_of(error)
        if reason.raised is not None:
            raise reason.raised
        if listener.stop_requested():
            raise Interrupted(f"stopped after {reason.text}", fix="The same command goes on from the last checkpoint")
        again = reason.by_code and reason == before
        if again or attempt == attempts:
            times = (
                f"{attempt} time{'s' * (attempt > 1)}, the last time with " if not again else "again in the same way, "
            )
            raise KdrayError(
                f"stage {stage.name} failed {times}{reason.text}",
                fix=f"{_where_to_look(stage, reason)}; the same command goes on from the last checkpoint",
            )
        before = reason
        listener.event("warning", {"text": f"{reason.text}; going on from the last checkpoint"})
    raise AssertionError("unreachable")


def _attempt(stage: StageSpec, cluster: Cluster, shares: Shares, listener: Listener) -> dict[str, Any]:
    control = start_control()
    resources: dict[str, float] = {"CPU": shares.worker_cpus}
    gpus = cluster.gpus_per_worker or 0.0
    if gpus:
        resources["GPU"] = gpus
    # A folder of this attempt's own: another command may be at the same stage.
    store, folder = Store(stage.store).sub(stage.folder), f"{RAY_FOLDER}{os.getpid()}-{time.time_ns()}"
    filesystem, path = open_uri(store.path_uri(folder))
    trainer = LeanTrainer(
        _train_function,  # type: ignore[arg-type]
        # By reference: the controller would unpickle values, labels of a million images and all, and print them into
        # the dashboard.
        train_loop_config={"stage": ray.put(stage), "control": control},
        torch_config=GroupConfig(local=cluster_address(cluster) is None),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.workers, use_gpu=gpus > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            # Ray Train's own folder stays almost empty: checkpoints are kdray's, which runs without Ray have too.
            name=stage.name,
            storage_path=path,
            storage_filesystem=filesystem,
        ),
    )
    outcome: dict[str, Any] = {}

    def fit() -> None:
        try:
            outcome["result"] = trainer.fit()
        except BaseException as error:  # handed to the waiting thread
            outcome["error"] = error

    # fit() runs beside, because it blocks: this thread shows progress and turns Ctrl-C into a saved state.
    thread = threading.Thread(target=fit, name="ray-train-fit", daemon=True)
    thread.start()
    waiting = Waiting(cluster.workers, resources, listener)
    while thread.is_alive():
        thread.join(DRAIN_S)
        waiting.over |= _exchange(control, listener)
        if listener.stop_requested() and not waiting.over:
            # Ray Train would wait on; it ends with this process.
            raise Interrupted("stopped before a worker had started")
        waiting.tell()
    _exchange(control, listener)
    ray.kill(control)
    store.delete(folder)
    if "error" in outcome:
        raise outcome["error"]
    value = outcome["result"].return_value
    if "interrupted" in value:
        raise Interrupted(value["interrupted"])
    for left in store.list():  # by commands that were killed
        if left.startswith(RAY_FOLDER):
            store.delete(left.rstrip("/"))
    return value


def _exchange(control: Any, listener: Listener) -> bool:
    """Pass on what the workers said; True when they said anything."""
    try:
        events = ray.get(control.exchange.remote(listener.stop_requested()))
    except ray.exceptions.RayError as error:
        raise KdrayError(
            f"the cluster does not answer any more ({type(error).__name__})",
            fix="The same command goes on from the last checkpoint",
        ) from error
    for kind, values in events:
        listener.event(kind, values)
    return bool(events)


class Waiting:
    """Says what a run waits for while no worker has started: resources may come late, or never."""

    def __init__(self, workers: int, resources: dict[str, float], listener: Listener) -> None:
        self.asked = f"{workers} x " + " + ".join(f"{amount:g} {name}" for name, amount in resources.items())
        self.names = list(resources)
        self.listener = listener
        self.over = False
        self.next_s = time.monotonic() + FIRST_WORD_S

    def tell(self) -> None:
        """Tell it, now and then."""
        if self.over or time.monotonic() < self.next_s:
            return
        self.next_s = time.monotonic() + NEXT_WORD_S
        there, free = ray.cluster_resources(), ray.available_resources()
        have = ", ".join(f"{free.get(name, 0.0):g} of {there.get(name, 0.0):g} {name} free" for name in self.names)
        self.listener.event("warning", {"text": f"no worker has started yet: {self.asked} asked, {have}"})


def _train_function(config: dict[str, Any]) -> dict[str, Any]:
    """What each Ray Train worker runs; rank 0's return value becomes the result."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    listener = RemoteListener(config["control"])
    listener.event("worker", {"rank": rank})
    forward = WarningForwarder(listener, rank)
    logging.getLogger("kdray").addHandler(forward)
    try:
        import kdray.train.worker as worker  # here, in the worker, and not wherever this function is unpickled

        return worker.StageWorker(ray.get(config["stage"]), listener, rank, world).run()
    except Interrupted as error:
        return {"interrupted": error.problem}
    except KdrayError:
        raise
    except Exception as error:
        raise WorkerFailure.of(error, rank) from error
    finally:
        logging.getLogger("kdray").removeHandler(forward)
        listener.close()


def _where_to_look(stage: StageSpec, reason: Reason) -> str:
    """Leave the traceback beside the artifact, where it outlives the nodes; what never came to one is in Ray's logs."""
    if reason.trace:
        store = Store(stage.store).sub(stage.folder)
        store.write_text("traceback.txt", reason.trace)
        return f"Traceback: {store.path_uri('traceback.txt')}"
    node = ray._private.worker.global_worker.node
    logs = os.path.join(node.get_session_dir_path(), "logs", "train") if node else "see the cluster's dashboard"
    return f"Logs of the workers: {logs}"
