"""Rows of all workers, differentiably: what lets a batch-relational loss see the global batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """(rank, number of workers) of the running process group; (0, 1) without one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        return _all_gather(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # Every worker's loss read these rows: the gradient of the sum of all losses is the sum of all gradients.
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


def _all_gather(x: Tensor) -> Tensor:
    x = x.contiguous()
    pieces = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, x)
    return torch.cat(pieces)


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all workers, [n, ...] -> [world * n, ...], worker by worker; every worker must bring equally many.

    Let worker r's loss be l_r, written with the gathered rows, and the loss of the run be their mean. After backward
    and DDP's mean over workers, the gradients are those of that mean: 2 workers with n rows are 1 worker with 2n.
    Identity without a process group. Every worker must call it equally often, forward and backward.
    """
    if world()[1] == 1:
        return x
    return _GatherRows.apply(x) if x.requires_grad else _all_gather(x)


def own_rows(rows: int) -> slice:
    """Where this worker's `rows` stand among the gathered ones."""
    start = world()[0] * rows
    return slice(start, start + rows)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def sum_over_workers(x: Tensor) -> tuple[Tensor, int]:
    """The sum of `x` over all workers and how many they are; differentiable, in the sense of `gather_rows`."""
    workers = world()[1]
    if workers == 1:
        return x, 1
    if x.requires_grad:
        return _Sum.apply(x), workers
    return _Sum.forward(None, x), workers
