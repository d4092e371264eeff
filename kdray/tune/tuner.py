"""Ray Tune, set up: it places the trials, starts their processes and asks the scheduler.

What it would keep by itself (pickles, a CSV and a JSON file for each trial) goes to a scratch folder and is forgotten.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pyarrow.fs
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import HyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import NoopStopper, Stopper

from kdray.store import Store, open_uri
from kdray.train.environment import STORAGE_CREDENTIALS

FOLDER = "tune-"
# Ray Tune would put these into the runtime environment of every trial, which Ray shows to everyone and logs. A trial's
# process has them as any other of the job has: see `kdray.train.environment.storage_credentials`.
KEYS = (*STORAGE_CREDENTIALS, "AWS_SECURITY_TOKEN")
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that failed has no metric
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the view says them in a line
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # of all trials, each time: nobody reads it, and it grows with their number
    "RAY_AIR_NEW_OUTPUT": "0",
}


def fit(
    trainable: Any,
    bundles: list[dict[str, float]],
    searcher: Searcher,
    scheduler: TrialScheduler,
    *,
    callback: tune.Callback,
    over: Callable[[], bool],
    reuse: bool,
    max_failures: int,
    most_pending: int,
    scratch: AbstractContextManager[tuple[pyarrow.fs.FileSystem, str]],
) -> None:
    """Run trials of `trainable` until `searcher` has no more, or `over` says that what is left only waits.

    Each gets `bundles`; a process that dies is started again `max_failures` times. With `reuse` a process runs one
    trial after another. At most `most_pending` wait for their place: a cluster grows by those.
    """
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(most_pending)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    keep_keys_out()
    with scratch as (filesystem, path):
        tuner = tune.Tuner(
            tune.with_resources(trainable, tune.PlacementGroupFactory(bundles)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=reuse,
                trial_name_creator=lambda trial: f"trial-{trial.config['number']}",
                trial_dirname_creator=lambda trial: f"{trial.config['number']:05d}",
            ),
            run_config=tune.RunConfig(
                name="state",
                storage_path=path,
                storage_filesystem=filesystem,
                callbacks=[callback],
                stop=_StopWaiting(over),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        tuner.fit()


def keep_keys_out() -> None:
    """Have Ray Tune leave the storage's keys out of what it tells Ray of trials."""
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(KEYS)


@contextlib.contextmanager
def scratch(store: Store, folder: str, scheduler: TrialScheduler) -> Iterator[tuple[pyarrow.fs.FileSystem, str]]:
    """Where Ray Tune keeps what nobody reads: a folder of this machine. Hyperband's trials pause, and then every node
    must reach it: one in `folder` of `store`."""
    for left in store.list(folder):  # by commands that were killed
        if left.startswith(FOLDER):
            store.delete(f"{folder}/{left.rstrip('/')}")
    if isinstance(scheduler, HyperBandScheduler):
        place = f"{folder}/{FOLDER}{os.getpid()}"
        yield open_uri(store.path_uri(place))
        store.delete(place)
        return
    with tempfile.TemporaryDirectory(prefix="kdray-tune-") as here:
        yield pyarrow.fs.LocalFileSystem(), here


class _StopWaiting(Stopper):
    """Ends the sweep where nothing but trials without a place is left, which Ray Tune would wait for."""

    def __init__(self, over: Callable[[], bool]) -> None:
        self.over = over

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.over()

    def __reduce__(self) -> tuple[Any, ...]:
        return NoopStopper, ()  # for Ray Tune's own state, which nobody reads
