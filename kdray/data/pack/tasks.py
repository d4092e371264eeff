"""Many calls of one function, on a Ray cluster or in threads, a few at a time, results as they come."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from kdray.errors import ClusterError, KdrayError

MOST_THREADS = 16
LEAST_WAITING = 4  # tasks sent to a cluster without a free CPU, so that one that grows on demand does so

Call = tuple[Any, ...]


def run_tasks(
    function: Callable[..., Any], job: Any, calls: Iterable[Call], workers: int | None, *, here: bool = False
) -> Generator[Any, None, None]:
    """Yield `function(job, *call)` for each of `calls`, in the order in which they end.

    `calls` is drawn from as room comes free, so that what they hold is never in memory at once. Closing the iterator
    ends what still runs.

    Args:
        job: what all calls share; sent to the cluster once.
        workers: 0 for threads of this process (they get `stopped=`, to be asked now and then); else tasks of one CPU
            on the Ray cluster of RAY_ADDRESS or one of this machine's own, so many at a time (None: as many as CPUs).
        here: the calls work on this machine only.

    Raises:
        ClusterError: no cluster, or its tasks die.
        KdrayError: what a call raised; the others are ended.
    """
    if workers == 0:
        yield from _in_threads(function, job, iter(calls))
    else:
        yield from _on_ray(function, job, iter(calls), workers, here)


def threads() -> int:
    """How many threads this process may keep busy."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST_THREADS, cpus or 1)


def _in_threads(function: Callable[..., Any], job: Any, calls: Iterator[Call]) -> Generator[Any, None, None]:
    stop = threading.Event()
    running: set[Future[Any]] = set()
    pool = ThreadPoolExecutor(threads())
    try:
        while True:
            while len(running) < threads() and (call := next(calls, None)) is not None:
                running.add(pool.submit(function, job, *call, stopped=stop.is_set))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _on_ray(
    function: Callable[..., Any], job: Any, calls: Iterator[Call], workers: int | None, here: bool
) -> Generator[Any, None, None]:
    _connect()
    import ray

    options: dict[str, Any] = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
    if here:
        node = ray.get_runtime_context().get_node_id()
        if not any(n["NodeID"] == node and n["Resources"].get("CPU", 0) >= 1 for n in ray.nodes()):
            yield from _in_threads(function, job, calls)  # a head that is kept free of tasks
            return
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
    task, shared = ray.remote(_call).options(**options), ray.put((function, job))
    running: list[Any] = []
    try:
        while True:
            room = workers or max(LEAST_WAITING, 2 * int(ray.cluster_resources().get("CPU", 0)))
            while len(running) < room and (call := next(calls, None)) is not None:
                running.append(task.remote(shared, *call))
            if not running:
                return
            done, running = ray.wait(running, num_returns=1, timeout=5)
            for reference in done:
                yield _get(reference)
    finally:
        for reference in running:
            ray.cancel(reference)


def _connect() -> None:
    from kdray.experiment import Cluster
    from kdray.train.cluster import connect

    terminated = signal.getsignal(signal.SIGTERM)
    connect(Cluster())
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminated)  # Ray put its own there, which ends the process with code 15


def _call(shared: tuple[Callable[..., Any], Any], *call: Any) -> Any:
    function, job = shared
    return function(job, *call)


def _get(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        inner: BaseException | None = error
        while inner is not None:
            if isinstance(inner, KdrayError):
                raise inner from None
            inner = getattr(inner, "cause", None) or inner.__cause__
        raise
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        fix = "Lower --workers or --shard-bytes where memory is short; what is done is kept"
        raise ClusterError(f"a task died: {reason}", where="cluster", fix=fix) from error
