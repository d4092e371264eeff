"""What Ray must find in the environment before it is imported: it reads most of these once."""

from __future__ import annotations

import os

from kdray.experiment import Cluster

# Where the user has not said otherwise. Ray copies RAY_TRAIN_* on to controllers and workers.
DEFAULTS = {
    # Always stated: left alone, Ray turns it on in a process that starts a cluster and off in those that join one.
    "RAY_AUTH_MODE": "token",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # also how soon fit() returns; 2 s by default
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # each print() would appear twice
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the dashboard's Train tab is empty without it
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a user's own code keep their meaning
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker that asked for no GPU sees none
    "RAY_USAGE_STATS_ENABLED": "0",
}
# Despite its name it means "may this node be joined from others?" on every system; 0 binds all servers to loopback.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def cluster_address(cluster: Cluster) -> str | None:
    """Address of the cluster to join (RAY_ADDRESS is set inside a Ray job), None to start one on this machine."""
    return cluster.address or os.environ.get("RAY_ADDRESS")


def prepare_environment(local: bool) -> None:
    """Set what is not set; with `local`, also keep the cluster that this process starts off the network."""
    for key, value in (DEFAULTS | (LOOPBACK if local else {})).items():
        os.environ.setdefault(key, value)
