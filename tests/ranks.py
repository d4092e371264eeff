"""Several processes as the ranks of a gloo group, for tests of what ranks do together."""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(work: Callable[..., None], *args: Any, world: int = 2) -> None:
    """Call `work(rank, *args)` in `world` processes, joined in a group; raises what the first of them raised."""
    with tempfile.TemporaryDirectory(prefix="kdray-ranks-") as folder:
        mp.spawn(_rank, args=(work, args, world, os.path.join(folder, "meeting")), nprocs=world)


def _rank(rank: int, work: Callable[..., None], args: tuple[Any, ...], world: int, meeting: str) -> None:
    faulthandler.enable()  # a process that dies of a signal says where
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    work(rank, *args)
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    # DDP keeps the group's threads alive after destroy_process_group. One of them may still want the interpreter, to
    # let go of the last collective's tensors, when that is being taken down, and then it aborts the process.
    os._exit(0)
