"""Running a stage: in this process, or on Ray Train workers."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

import ray
import ray.train
import ray.train.torch

from kdray.errors import Interrupted, KdrayError
from kdray.experiment import Cluster
from kdray.store import Store, open_uri
from kdray.train.cluster import Shares
from kdray.train.control import Control, RemoteListener, WarningForwarder
from kdray.train.job import Listener
from kdray.train.spec import StageSpec

log = logging.getLogger(__name__)
DRAIN_S = 0.2
STORAGE_SETTINGS = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
)


def run_on_ray(stage: StageSpec, cluster: Cluster, shares: Shares, listener: Listener) -> dict[str, Any]:
    """Run `stage` on `cluster.workers` Ray Train workers and return its record.

    A worker or node that dies ends the attempt; the next one goes on from the last checkpoint, up to
    `cluster.max_failures` times. An error that kdray raised on purpose would come again and is not retried.

    Raises:
        KdrayError: what the workers raised, or Interrupted after a stop.
    """
    attempts = cluster.max_failures + 1
    for attempt in range(1, attempts + 1):
        try:
            return _attempt(stage, cluster, shares, listener)
        except KdrayError:
            raise
        except ray.train.TrainingFailedError as error:
            reason = _cause(error)
            if isinstance(reason, KdrayError):
                raise reason from None
            if attempt == attempts:
                raise KdrayError(
                    f"stage {stage.name} failed {attempt} times, the last time with {_first_line(reason)}",
                    fix=f"Logs of the workers: {_log_folder()}; the same command goes on from the last checkpoint",
                ) from error
            listener.event(
                "warning", {"text": f"attempt {attempt} ended with {_first_line(reason)}; going on from its checkpoint"}
            )
    raise AssertionError("unreachable")


def _attempt(stage: StageSpec, cluster: Cluster, shares: Shares, listener: Listener) -> dict[str, Any]:
    control = Control.remote()  # type: ignore[attr-defined]
    resources: dict[str, float] = {"CPU": shares.worker_cpus}
    gpus = cluster.gpus_per_worker or 0.0
    if gpus:
        resources["GPU"] = gpus
    name = f"{stage.name}-{os.getpid()}-{time.time_ns()}"
    filesystem, path = open_uri(Store(stage.store).path_uri("ray"))
    trainer = ray.train.torch.TorchTrainer(
        _train_function,  # type: ignore[arg-type]
        train_loop_config={"stage": stage, "control": control},
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.workers, use_gpu=gpus > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            # Ray Train's own folder stays almost empty: checkpoints are kdray's, which runs without Ray have too.
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            worker_runtime_env={"env_vars": _worker_environment()},  # type: ignore[call-arg]
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
    asked = False
    while thread.is_alive():
        thread.join(DRAIN_S)
        _pass_on(control, listener)
        if listener.stop_requested() and not asked:
            asked = True
            ray.get(control.request_stop.remote())
    _pass_on(control, listener)
    ray.kill(control)
    Store(stage.store).delete(f"ray/{name}")
    if "error" in outcome:
        raise outcome["error"]
    value = outcome["result"].return_value
    if "interrupted" in value:
        raise Interrupted(value["interrupted"])
    return value


def _pass_on(control: Any, listener: Listener) -> None:
    for kind, values in ray.get(control.drain.remote()):
        listener.event(kind, values)


def _train_function(config: dict[str, Any]) -> dict[str, Any]:
    """What each Ray Train worker runs; rank 0's return value becomes the result."""
    import kdray.train.worker as worker  # torch is imported here, in the worker, and not by whoever unpickles this

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    listener = RemoteListener(config["control"])
    forward = WarningForwarder(listener, rank)
    logging.getLogger("kdray").addHandler(forward)
    try:
        return worker.StageWorker(config["stage"], listener, rank, world).run()
    except Interrupted as error:
        return {"interrupted": str(error)}
    finally:
        logging.getLogger("kdray").removeHandler(forward)
        listener.close()


def _worker_environment() -> dict[str, str]:
    """Storage settings that a worker on another node needs; Ray itself passes on credentials and RAY_TRAIN_* only."""
    return {name: os.environ[name] for name in STORAGE_SETTINGS if name in os.environ}


def _cause(error: BaseException) -> BaseException:
    """The worker's own exception inside what Ray Train raised; kdray's errors win over what followed from them."""
    failures = getattr(error, "worker_failures", None) or {}
    found = [_unwrap(failure) for _, failure in sorted(failures.items())]
    chosen = [reason for reason in found if isinstance(reason, KdrayError)] or found
    return chosen[0] if chosen else error


def _unwrap(error: BaseException) -> BaseException:
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "cause", None) or error.__cause__
        if isinstance(error, KdrayError) or not isinstance(inner, BaseException):
            break
        error = inner
    return error


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _log_folder() -> str:
    node = ray._private.worker.global_worker.node
    return os.path.join(node.get_session_dir_path(), "logs", "train") if node else "in the cluster's dashboard"
