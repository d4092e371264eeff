"""Batch normalisation for the heads of objectives, over the rows of all workers.

torch's `SyncBatchNorm` needs a GPU, and plain batch norm would make a loss depend on how the batch is split. Heads are
only ever used in training, so there are no running statistics: nothing to save, nothing that drifts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdray.objectives.gather import sum_over_workers

EPS = 1e-5


class BatchNorm(nn.Module):
    """Normalise every channel by its mean and variance over the global batch (and places), then scale and shift.

    Takes [n, C] or [n, C, H, W]; every worker must bring equally many rows. A single row is left at `bias`: there is
    no variance to divide by, and no gradient to follow.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        over = [dim for dim in range(x.dim()) if dim != 1]
        count = x.numel() // x.shape[1]
        # Two passes: a mean of squares less a squared mean loses its digits in float32.
        mean = self._mean(x, over, count)
        centred = x - mean
        variance = self._mean(centred.square(), over, count)
        shape = [1, -1, *([1] * (x.dim() - 2))]
        weight, bias = (one.to(x.dtype).reshape(shape) for one in (self.weight, self.bias))
        return centred * (variance + EPS).rsqrt() * weight + bias

    @staticmethod
    def _mean(x: Tensor, over: list[int], count: int) -> Tensor:
        total, workers = sum_over_workers(x.sum(dim=over, keepdim=True))
        return total / (count * workers)
