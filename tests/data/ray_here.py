"""Ray on this machine with two CPUs, found by nobody else, for tests of streaming."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def small_ray(store_bytes: int) -> Iterator[tuple[Any, Path]]:
    """Give the module `ray`, connected, and the folder where this cluster keeps its files."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "disabled")
    patch.delenv("RAY_ADDRESS", raising=False)
    import ray

    with tempfile.TemporaryDirectory(prefix="kd") as folder:  # pytest's own is too long for a socket's path
        try:
            ray.init(
                num_cpus=2,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
                object_store_memory=store_bytes,
                log_to_driver=False,
            )
            yield ray, Path(folder)
        finally:
            ray.shutdown()
            patch.undo()
