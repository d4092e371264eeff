"""The latest vectors of every class, each in a ring of its own: same-class negatives that a batch is too small for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdray.objectives.draws import Tag, draw
from kdray.objectives.gather import gather_rows

EMPTY = -1


class ClassCache(nn.Module):
    """`vectors` float32 or float16 [C, M, d] with their sample `index` (-1 where empty) and the step they were `pushed`
    at, int64 [C, M]; `head` int64 [C] is the slot of each ring that is written next.

    All are buffers, saved exactly, and equal on all workers: `push` takes the rows of all of them, in an order that
    depends on the rows alone.
    """

    vectors: Tensor
    index: Tensor
    pushed: Tensor
    head: Tensor

    def __init__(self, classes: int, size: int, dim: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(classes, size, dim, dtype=dtype))
        self.register_buffer("index", torch.full((classes, size), EMPTY))
        self.register_buffer("pushed", torch.zeros(classes, size, dtype=torch.int64))
        self.register_buffer("head", torch.zeros(classes, dtype=torch.int64))

    @staticmethod
    def bytes(classes: int, size: int, dim: int, dtype: torch.dtype = torch.float32) -> int:
        """What a cache of this size takes."""
        return classes * (size * (dim * dtype.itemsize + 16) + 8) if size else 0

    def filled(self, step: int, max_age: int | None) -> Tensor:
        """bool [C, M]: entries that are there, and pushed at most `max_age` steps before `step`."""
        filled = self.index != EMPTY
        return filled if max_age is None else filled & (step - self.pushed <= max_age)

    def scores(self, rows: Tensor, labels: Tensor) -> Tensor:
        """rows[i] . vectors[labels[i], k]: [n, d], int64 [n] -> [n, M], differentiable in `rows`. Memory: [n, M, d]."""
        return torch.einsum("nd,nmd->nm", rows, self.vectors[labels].to(rows.dtype))

    @torch.no_grad()
    def push(
        self, rows: Tensor, labels: Tensor, index: Tensor, keys: Tensor, keep: Tensor, *, seed: int, step: int
    ) -> None:
        """Write those of this worker's rows, and of all others', that `keep` names over their classes' oldest entries.

        rows [n, d]; labels, index and keys (`row_keys`) int64 [n]; keep bool [n]. Rows of one class take consecutive
        slots in the order of drawn numbers, so that their order in the batch does not matter; of more than M the last
        M stay.
        """
        rows, labels, index, keys, keep = (gather_rows(x) for x in (rows, labels, index, keys, keep))
        size = self.index.shape[1]
        order = draw(keys, 1, seed=seed, step=step, tag=Tag.CACHE_ORDER)[:, 0].argsort(stable=True)
        order = order[(2 * labels + ~keep)[order].argsort(stable=True)]  # by class, what is kept first
        members, kept = (
            torch.zeros_like(self.head).scatter_add_(0, labels, n) for n in (torch.ones_like(labels), keep.long())
        )
        label = labels[order]
        start, count = (members.cumsum(0) - members)[label], kept[label]
        rank = torch.arange(len(order), device=order.device) - start
        # No row may be picked out by value, so all are written: each as the row that its slot ends up with, a row that
        # is not kept as the last of its class, and where none is kept as what stands there already.
        last = count - 1
        final = torch.where(rank < count, rank + (last - rank) // size * size, last).clamp_min(0)
        place, row, written = (label, (self.head[label] + final) % size), order[start + final], count > 0
        self.vectors[place] = torch.where(written[:, None], rows[row].to(self.vectors.dtype), self.vectors[place])
        self.index[place] = torch.where(written, index[row], self.index[place])
        self.pushed[place] = torch.where(written, step, self.pushed[place])
        self.head.add_(kept).remainder_(size)
