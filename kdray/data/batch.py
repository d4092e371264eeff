"""One batch, and what feeds give batches; no reader or decoder is needed to import it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch


@dataclass
class Batch:
    """One local batch of b samples in V views.

    `images` uint8 [V*b, 3, H, W] in channels_last memory, row v*b + i is view v of sample i; `labels`, `index` (dense
    row number) and `ids` are int64 [b]; all on the feed's device.
    """

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    ids: torch.Tensor
    views: int = 1


class TrainFeed(Protocol):
    """Batches of a rank's share of every global batch.

    `dropped` rows of each epoch do not fill a batch; `bad_images` distinct rows are known not to decode so far, and
    were replaced by others of their batch (see `kdray.data.bad.stand_ins`).
    """

    steps_per_epoch: int
    dropped: int

    @property
    def bad_images(self) -> int: ...

    @property
    def bad_rows(self) -> frozenset[int]:
        """Dense row numbers of those images."""
        ...

    def share_bad(self, rows: frozenset[int]) -> None:
        """Take up what other ranks met, or an interrupted process.

        Raises:
            DataError: together they are more than `data.max_bad_fraction`.
        """
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` from number `start` on; nothing before it is read."""
        ...

    def close(self) -> None:
        """Give up what was begun of an epoch that nobody will ask for."""
        ...


class EvalFeed(Protocol):
    """Every row of this rank's share exactly once, in row order; ranks' shares differ by at most one row.

    `num_samples` counts the rows of all ranks; `bad_images` the ones of this rank's last pass that did not decode and
    were left out.
    """

    num_samples: int

    @property
    def bad_images(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


def normalise(
    images: torch.Tensor, mean: tuple[float, float, float], std: tuple[float, float, float], dtype: torch.dtype
) -> torch.Tensor:
    """Return (images / 255 - mean) / std as `dtype` [n, 3, H, W], on the device and in the memory layout of `images`,
    uint8 or float32 in 0..255. `mean` and `std` are of pixels in 0..1.
    """
    scale, bias = _constants(tuple(mean), tuple(std), images.device)
    # One pass: read as it is, worked out in float32, written in `dtype`.
    return torch.addcmul(bias, images, scale, out=torch.empty_like(images, dtype=dtype))


@lru_cache(maxsize=64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    # Kept: making them from Python numbers for every batch would stall a GPU's queue.
    scale = [1 / (255 * s) for s in std]
    bias = [-m / s for m, s in zip(mean, std, strict=True)]
    pair = [torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1) for values in (scale, bias)]
    return pair[0], pair[1]
