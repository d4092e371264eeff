"""What ranks must agree on, or know of each other, outside the steps themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch.distributed as dist

from kdray.errors import ClusterError, KdrayError

T = TypeVar("T")


def check_same_step(step: int, world: int) -> None:
    """Make sure that all ranks start from one step.

    Raises:
        ClusterError: they do not: each node has read a folder of its own under the same path.
    """
    if world == 1:
        return
    steps: list[int] = [0] * world
    dist.all_gather_object(steps, step)
    if len(set(steps)) > 1:
        raise ClusterError(
            f"the workers found different checkpoints, of steps {sorted(set(steps))}",
            where="storage",
            fix="Give a storage that all nodes share: s3://, gs:// or a network file system",
        )


def union(rows: Iterable[int], world: int) -> frozenset[int]:
    """The row numbers that any rank has."""
    own = frozenset(rows)
    if world == 1:
        return own
    gathered: list[frozenset[int]] = [frozenset()] * world
    dist.all_gather_object(gathered, own)
    return frozenset().union(*gathered)


def of_first(work: Callable[[], T], rank: int, world: int) -> T:
    """What `work` gives on rank 0, which alone does it; the others wait for it, and fail where it fails."""
    if world == 1:
        return work()
    said: list[Any] = [None, None]
    failed: Exception | None = None
    if rank == 0:
        try:
            said[0] = work()
        except Exception as error:
            failed = error
            known = isinstance(error, KdrayError)
            said[1] = error if known else ClusterError(f"the first worker failed: {type(error).__name__}: {error}")
    dist.broadcast_object_list(said, src=0)
    if failed is not None or said[1] is not None:
        raise failed or said[1]
    return said[0]
