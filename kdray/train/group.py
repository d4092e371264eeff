"""How the workers of a run find each other for torch.distributed."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend


@dataclass
class GroupConfig(TorchConfig):
    """Ray's torch setup, without a process group where there is one worker, and off the network with `local`.

    torch's TCP store, which Ray uses, listens on every interface of the machine and knows no password.
    """

    local: bool = False

    @property
    def backend_cls(self) -> type[_GroupBackend]:
        """What sets the group up."""
        return _GroupBackend


class _GroupBackend(_TorchBackend):
    """Lives in Ray Train's controller, which on a cluster of one machine is on that machine too."""

    folder: str | None = None

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        world = len(worker_group)
        if world > 1 and not backend_config.local:
            super().on_start(worker_group, backend_config)
            return
        worker_group.execute(_set_torch_distributed_env_vars)
        if world == 1:
            return
        self.folder = tempfile.mkdtemp(prefix="kdray-group-")
        config = (backend_config.backend, os.path.join(self.folder, "store"), world, backend_config.timeout_s)
        ray.get([worker_group.execute_single_async(rank, _join, *config, rank) for rank in range(world)])

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        try:
            super().on_shutdown(worker_group, backend_config)
        finally:
            if self.folder is not None:
                shutil.rmtree(self.folder, ignore_errors=True)


def _join(backend: str, meeting: str, world: int, timeout_s: int, rank: int) -> None:
    """Meet the other workers of this machine in a file."""
    import torch.distributed as dist

    dist.init_process_group(
        backend, store=dist.FileStore(meeting, world), rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s)
    )
