"""The latest logits of the teacher, first in, first out: more rows to contrast with than a batch has.

A teacher is fixed, so entries do not go stale as those of MoCo's moving encoder do (He et al., CVPR 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdray.objectives.contract import Needs, Objective, Setup, StepInfo, Targets
from kdray.objectives.draws import Tag, draw, row_keys
from kdray.objectives.gather import gather_rows

EMPTY = -1


class LogitQueue(nn.Module):
    """`logits` float32 [Q, C] with their `labels` and sample `index`, int64 [Q], -1 where a slot is still empty.

    `head` int64 [] is the slot that is written next. All are buffers, saved exactly, and equal on all workers: `push`
    takes the rows of all of them, in an order that depends on the rows alone.
    """

    logits: Tensor
    labels: Tensor
    index: Tensor
    head: Tensor

    def __init__(self, size: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(size, num_classes))
        self.register_buffer("labels", torch.full((size,), EMPTY))
        self.register_buffer("index", torch.full((size,), EMPTY))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))

    @staticmethod
    def bytes(size: int, num_classes: int) -> int:
        """What a queue of this size takes."""
        return size * (4 * num_classes + 16) + 8 if size else 0

    @torch.no_grad()
    def push(self, logits: Tensor, labels: Tensor, index: Tensor, keys: Tensor, *, seed: int, step: int) -> None:
        """Write this worker's rows, and those of all others, over the oldest entries.

        logits [n, C]; labels, index and keys (`row_keys`) int64 [n]. Rows of one step go in by drawn numbers, so that
        their order in the batch does not matter; of more than Q rows the last Q stay.
        """
        size = len(self.labels)
        logits, labels, index, keys = (gather_rows(rows) for rows in (logits, labels, index, keys))
        order = draw(keys, 1, seed=seed, step=step, tag=Tag.QUEUE_ORDER)[:, 0].argsort(stable=True)[-size:]
        slots = (self.head + torch.arange(len(order), device=order.device)) % size
        self.logits[slots] = logits[order].to(self.logits.dtype)
        self.labels[slots] = labels[order]
        self.index[slots] = index[order]
        self.head.add_(len(order)).remainder_(size)


class QueuedObjective(Objective):
    """An objective that contrasts with the teacher's logits of the batch and of a queue.

    Its options have `queue`, how many entries that has (0 for none), and `gather`.
    """

    options: Any

    def __init__(self, options: Any, setup: Setup) -> None:
        super().__init__(options, setup)
        self.queue = LogitQueue(options.queue, setup.num_classes) if options.queue else None

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(teacher_logits=True, index=True)

    @classmethod
    def bank_bytes(cls, options: Any, setup: Setup) -> int:
        return LogitQueue.bytes(options.queue, setup.num_classes)

    def candidates(self, teacher: Tensor) -> Tensor:
        """The teacher's logits of the local or global batch, then those of the queue: [m, C] -> [n, C]."""
        rows = gather_rows(teacher) if self.options.gather == "global" else teacher
        return rows if self.queue is None else torch.cat([rows, self.queue.logits.to(rows.dtype)])

    def remember(self, teacher: Tensor, targets: Targets, step: StepInfo) -> None:
        """Push the batch's logits of the teacher [m, C]; after the loss, so that no row meets itself twice."""
        if self.queue is not None:
            keys = row_keys(targets.index, targets.views)
            self.queue.push(teacher, targets.row_labels, targets.row_index, keys, seed=step.seed, step=step.step)
