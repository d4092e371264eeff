"""What Ray must find in the environment before it is imported: it reads most of these once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable

from kdray.experiment import Cluster
from kdray.store.place import without_keys

# Where the user has not said otherwise. Ray copies RAY_TRAIN_* on to controllers and workers.
DEFAULTS = {
    # Always stated: left alone, Ray turns it on in a process that starts a cluster and off in those that join one.
    "RAY_AUTH_MODE": "token",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # also how soon fit() returns; 2 s by default
    # After 60 s Ray gives a group of workers up and starts anew, for ever: a node may take longer to boot.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # each print() would appear twice
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a user's own code keep their meaning
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker that asked for no GPU sees none
    "RAY_USAGE_STATS_ENABLED": "0",
}
_LOOPBACK_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"
LOCAL = {
    # Despite its name: may this node be joined from others? On every system; 0 binds all servers to loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "GLOO_SOCKET_IFNAME": _LOOPBACK_INTERFACE,  # and those of torch's collectives; where they meet: see `group`
    "NCCL_SOCKET_IFNAME": _LOOPBACK_INTERFACE,
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process that waits for a notice which never comes to a laptop
}
JOINED = {
    # The dashboard's Train tab is empty without it. It takes a process, so not where nobody has time to look.
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
}
# How to reach S3. Ray hands on none of it.
STORAGE_SETTINGS = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_S3_ADDRESSING_STYLE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "STORAGE_EMULATOR_HOST",
)
STORAGE_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def cluster_address(cluster: Cluster) -> str | None:
    """Address of the cluster to join (RAY_ADDRESS is set inside a Ray job), None to start one on this machine."""
    return cluster.address or os.environ.get("RAY_ADDRESS")


def prepare_environment(local: bool) -> None:
    """Set what is not set; with `local`, also keep the cluster that this process starts off the network."""
    for key, value in (DEFAULTS | (LOCAL if local else JOINED)).items():
        os.environ.setdefault(key, value)


def storage_settings() -> dict[str, str]:
    """What the processes of a cluster that is joined from outside must know to reach the same S3 as this one.

    Inside a Ray job this is empty: there the job's own `env_vars` and the nodes' roles say it.
    """
    # A name and password in an endpoint serve nothing here, and Ray shows env_vars to everyone.
    return {name: without_keys(value) for name, value in _lent(STORAGE_SETTINGS).items()}


def storage_credentials() -> Callable[[], None] | None:
    """What sets this process's S3 keys in a worker process of a cluster that is joined from outside; None without any.

    To be Ray's `worker_process_setup_hook`. Ray shows a job's `env_vars` to whoever lists jobs, tasks or runtime
    environments, and writes them to the nodes' logs; of a hook it shows the name alone.
    """
    keys = _lent(STORAGE_CREDENTIALS)
    if not keys:
        return None

    def set_storage_credentials() -> None:
        for name in STORAGE_CREDENTIALS:  # a node's own token does not go with keys that are lent
            os.environ.pop(name, None)
        os.environ.update(keys)

    return set_storage_credentials


def _lent(names: Iterable[str]) -> dict[str, str]:
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return {}
    return {name: os.environ[name] for name in names if name in os.environ}
