"""Mixed images: mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019), drawn for the whole global batch.

How batch b of an epoch is mixed is a function of (seed, epoch, b): one share, one box, one shift. An image's partner
stands `shift` places after it, around the end of its block of 16 rows of the global batch. Workers hold whole blocks:
nothing has to be sent, and any number of workers makes the same images. Every image is a partner once, none its own,
and no two images are mixtures of the same two (random pairs would be, at times). Shifts are slices: no index goes to
the device and nothing waits for it.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace

import numpy as np
import torch

from kdray.data.batch import Batch
from kdray.data.draws import uniforms
from kdray.errors import ConfigError
from kdray.experiment import Mix

BLOCK = 16
_TAG = zlib.crc32(b"mix")  # of draws
Box = tuple[int, int, int, int]
"""Rows top to bottom, columns left to right of an image, ends left out."""


@dataclass(frozen=True)
class Mixture:
    """How one global batch is mixed.

    Attributes:
        share: how much of a mixed image is the image itself, in [0, 1]; the rest is its partner.
        box: what CutMix takes from the partner; None for mixup.
        shift: how many places after an image, in its block, its partner stands.
        block: rows that are paired among themselves.
    """

    share: float
    box: Box | None
    shift: int
    block: int

    def partners(self, batch: Batch) -> Batch:
        """The partners of a local `batch`, row by row: each view of an image meets that view of its partner."""
        return replace(
            batch,
            images=self._shifted(batch.images),
            labels=self._shifted(batch.labels),
            index=self._shifted(batch.index),
            ids=self._shifted(batch.ids),
        )

    def apply(self, images: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
        """Mix `images` uint8 [n, 3, H, W] with `partners` of the same shape; new memory, in the layout of `images`.

        CutMix gives uint8, mixup share * image + (1 - share) * partner as float32 in 0..255: both are what
        `kdray.data.batch.normalise` takes, for networks of any mean and std.
        """
        if self.box is None:
            return partners.to(torch.float32).mul_(1.0 - self.share).add_(images, alpha=self.share)
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return mixed

    def _shifted(self, rows: torch.Tensor) -> torch.Tensor:
        """Row i of the result is the partner of row i; [n, ...] with n a multiple of the block, views included."""
        shifted = torch.empty_like(rows)
        source, target = rows.unflatten(0, (-1, self.block)), shifted.unflatten(0, (-1, self.block))
        rest = self.block - self.shift
        target[:, :rest] = source[:, self.shift :]
        target[:, rest:] = source[:, : self.shift]
        return shifted


class Mixer:
    """Draws the `Mixture` of every global batch of a run, equally on all its workers."""

    def __init__(self, mix: Mix, seed: int, batch: int, world: int = 1) -> None:
        """Mix global batches of `batch` rows, of which each of `world` workers holds an equal part.

        Raises:
            ConfigError: a worker's part cannot be paired.
        """
        self.mix, self.seed = mix, seed
        self.block = pairing_block(batch, world)
        # Half a block away, partners would be each other's: two images of the same two.
        self.shifts = [shift for shift in range(1, self.block) if 2 * shift != self.block] or [1]

    def draw(self, epoch: int, number: int, size: tuple[int, int]) -> Mixture | None:
        """How global batch `number` of `epoch` is mixed, for images of `size` (H, W); None for a batch left plain."""
        mix = self.mix
        u = uniforms(self.seed, epoch, np.array([number]), 0, _TAG, 7)[0].tolist()
        if u[0] >= mix.p:
            return None
        cut = mix.mixup is None or (mix.cutmix is not None and u[1] < mix.cutmix_share)
        alpha = mix.cutmix if cut else mix.mixup
        assert alpha is not None
        share, box = symmetric_beta(alpha, u[2], u[3]), None
        if cut:
            box = cut_box(share, size, u[4], u[5])
            share = 1.0 - (box[1] - box[0]) * (box[3] - box[2]) / (size[0] * size[1])
        return Mixture(share, box, self.shifts[int(u[6] * len(self.shifts))], self.block)


def pairing_block(batch: int, world: int) -> int:
    """Rows that are paired among themselves: 16, or the largest power of two below that divides a worker's part.

    Raises:
        ConfigError: a worker's part is odd.
    """
    share = batch // world
    block = math.gcd(share, BLOCK)
    if block < 2:
        raise ConfigError(
            f"images are mixed in pairs, and a batch of {batch} is {share} of each of {world} workers",
            where="train.batch",
            fix=f"Use a multiple of {BLOCK * world}",
        )
    return block


def symmetric_beta(alpha: float, u: float, v: float) -> float:
    """A draw from Beta(alpha, alpha), alpha > 0, from two uniforms in [0, 1); no rejection, so no state.

    With T of Student's t with 2 alpha degrees of freedom, 1/2 + T / (2 sqrt(2 alpha + T^2)) is that Beta, and Bailey's
    T = sqrt(2 alpha (u^(-1/alpha) - 1)) cos(2 pi v) (Mathematics of Computation 62, 1994); here without the division
    that overflows.
    """
    power, cosine = u ** (1.0 / alpha), math.cos(2.0 * math.pi * v)
    length = math.sqrt(power + (1.0 - power) * cosine * cosine)
    return min(max(0.5 + 0.5 * cosine * math.sqrt(1.0 - power) / length, 0.0), 1.0)


def cut_box(share: float, size: tuple[int, int], u: float, v: float) -> Box:
    """CutMix's box: sides of sqrt(1 - share) of `size` (H, W) around a uniform pixel, cut off at the image's edges."""
    ends = []
    for length, place in zip(size, (u, v), strict=True):
        half, centre = int(length * math.sqrt(1.0 - share)) // 2, int(place * length)
        ends += [max(centre - half, 0), min(centre + half, length)]
    return ends[0], ends[1], ends[2], ends[3]
