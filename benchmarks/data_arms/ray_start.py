"""A Ray cluster of this process alone, with as many CPUs as it may use."""

from __future__ import annotations

import logging

OBJECT_STORE_BYTES = 2 * 1024**3


def start(cores: int) -> None:
    """Start Ray as kdray does, on loopback; the same for all arms that use it."""
    from kdray.train.environment import prepare_environment

    prepare_environment(local=True)
    import ray

    ray.init(
        num_cpus=cores,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        dashboard_host="127.0.0.1",
    )
    logging.getLogger("ray.data").setLevel(logging.WARNING)
