"""Positives and negatives for every row, drawn on the device from the labels of the training set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kdray.objectives.draws import Tag, distinct, draw


class ClassSampler(nn.Module):
    """Same-class and different-class samples by one sorted index, no list per class.

    Buffers (rebuilt from the labels, hence not saved): `order` int64 [n], trained samples sorted by class; `starts`,
    `counts` int64 [C], the block of every class in it; `place` int64 [N], a sample's position in its block.
    """

    order: Tensor
    starts: Tensor
    counts: Tensor
    place: Tensor

    def __init__(self, labels: np.ndarray, num_classes: int) -> None:
        """`labels` int64 [N]; -1 marks a sample that is not trained on and is never drawn."""
        super().__init__()
        order = np.argsort(labels, kind="stable")
        order = order[labels[order] >= 0]
        counts = np.bincount(labels[order], minlength=num_classes)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        place = np.zeros(len(labels), dtype=np.int64)
        place[order] = np.arange(len(order)) - starts[labels[order]]
        self.samples = len(order)
        for name, values in (("order", order), ("starts", starts), ("counts", counts), ("place", place)):
            self.register_buffer(name, torch.from_numpy(values.astype(np.int64)), persistent=False)

    @staticmethod
    def bytes(samples: int) -> int:
        """What `order` and `place` take."""
        return samples * 16

    def positives(
        self, index: Tensor, labels: Tensor, keys: Tensor, count: int, *, seed: int, step: int
    ) -> tuple[Tensor, Tensor]:
        """The row's own sample in slot 0 and count - 1 others of its class, without replacement.

        A class of fewer than `count` samples fills only as many slots as it has.

        Returns:
            samples int64 [n, count] and which slots are filled, bool [n, count].
        """
        start, size, own = self.starts[labels], self.counts[labels], self.place[index]
        drawn, valid = distinct(keys, (size - 1).clamp_min(0), count - 1, seed=seed, step=step, tag=Tag.POSITIVES)
        others = drawn + (drawn >= own[:, None])  # step over the row itself
        position = (start[:, None] + others).clamp_max(self.samples - 1)
        itself = torch.ones_like(index, dtype=torch.bool)[:, None]
        return torch.cat([index[:, None], self.order[position]], dim=1), torch.cat([itself, valid], dim=1)

    def negatives(self, labels: Tensor, keys: Tensor, count: int, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """`count` independent uniform draws among the samples of other classes.

        Returns:
            samples int64 [n, count] and whether the row has any such sample, bool [n, 1].
        """
        start, size = self.starts[labels][:, None], self.counts[labels][:, None]
        outside = self.samples - size
        position = draw(keys, count, seed=seed, step=step, tag=Tag.NEGATIVES) % outside.clamp_min(1)
        position = position + torch.where(position >= start, size, 0)  # step over the class
        return self.order[position.clamp_max(self.samples - 1)], outside > 0

    def others(
        self, index: Tensor, labels: Tensor, keys: Tensor, count: int, *, seed: int, step: int
    ) -> tuple[Tensor, Tensor]:
        """`count` independent uniform draws among all trained samples but the row's own, whatever their class.

        Returns:
            samples int64 [n, count] and whether the row has any such sample, bool [n, 1].
        """
        own = (self.starts[labels] + self.place[index])[:, None]
        position = draw(keys, count, seed=seed, step=step, tag=Tag.OTHERS) % max(self.samples - 1, 1)
        position = (position + (position >= own)).clamp_max(self.samples - 1)
        return self.order[position], torch.full_like(own, self.samples > 1, dtype=torch.bool)

    def uniform(self, count: int, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """`count` independent uniform draws among all trained samples: samples int64 [count], labels int64 [count]."""
        key = torch.zeros_like(self.starts[:1])
        position = draw(key, count, seed=seed, step=step, tag=Tag.UNIFORM)[0] % self.samples
        return self.order[position], torch.searchsorted(self.starts + self.counts, position, right=True)
