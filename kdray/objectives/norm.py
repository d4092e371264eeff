"""Batch normalisation for the heads of objectives, over the rows of all workers.

torch's `SyncBatchNorm` needs a GPU, and plain batch norm would make a loss depend on how the batch is split. Most heads
are only ever used in training, so `BatchNorm` has no running statistics: nothing to save, nothing that drifts.
`KeptBatchNorm` has them, for heads that become part of the deployed network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdray.objectives.gather import sum_over_workers, world

EPS = 1e-5


class BatchNorm(nn.Module):
    """Normalise every channel by its mean and variance over the global batch (and places), then scale and shift.

    Takes [n, C] or [n, C, H, W]; every worker must bring equally many rows. A single row is left at `bias`: there is
    no variance to divide by, and no gradient to follow.
    """

    def __init__(self, channels: int, affine: bool = True, eps: float = EPS) -> None:
        """Without `affine` there is no scale and no shift: nothing to learn."""
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        centred, _, variance, _ = _moments(x)
        return _affine(centred * (variance + self.eps).rsqrt(), self.weight, self.bias)


class KeptBatchNorm(nn.BatchNorm2d):
    """`BatchNorm` with torch's running statistics: global batch in training, what was kept in evaluation.

    Its state dict is that of `nn.BatchNorm2d`, which can stand in its place once training is over. The statistics are
    those of the global batch, hence equal on all workers.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        centred, mean, variance, count = _moments(x)
        self._keep(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        return _affine(centred * (variance + self.eps).rsqrt(), self.weight, self.bias)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean.flatten().to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.flatten().to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked += 1


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """x less its mean, mean and variance of every channel (shaped to go with x), over how many values they were
    taken."""
    over = [dim for dim in range(x.dim()) if dim != 1]
    count = x.numel() // x.shape[1]
    # Two passes: a mean of squares less a squared mean loses its digits in float32.
    mean = _mean(x, over, count)
    centred = x - mean
    return centred, mean, _mean(centred.square(), over, count), count * world()[1]


def _mean(x: Tensor, over: list[int], count: int) -> Tensor:
    total, workers = sum_over_workers(x.sum(dim=over, keepdim=True))
    return total / (count * workers)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is None or bias is None:
        return x
    shape = [1, -1, *([1] * (x.dim() - 2))]
    return x * weight.to(x.dtype).reshape(shape) + bias.to(x.dtype).reshape(shape)
