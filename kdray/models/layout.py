"""Telling feature maps from other tensors: NCHW maps, NHWC maps (Swin) and token sequences (ViT) of square images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

MOST_PREFIX_TOKENS = 8  # class, distillation and register tokens; more than that is no grid of patches


@dataclass(frozen=True)
class Layout:
    """How a module's output becomes a map `[n, C, side, side]`; `kind` is nchw, nhwc or tokens."""

    kind: str
    channels: int
    side: int

    def to_map(self, value: Tensor) -> Tensor:
        """Return `value` as `[n, C, H, W]`; prefix tokens (class, registers) are left out."""
        if self.kind == "nchw":
            return value
        if self.kind == "nhwc":
            return value.permute(0, 3, 1, 2)
        grid = value[:, value.shape[1] - self.side * self.side :]
        return grid.transpose(1, 2).unflatten(2, (self.side, self.side))


def layout_of(shape: tuple[int, ...], n: int) -> Layout | None:
    """The layout of an output of that shape in a forward of `n` square images, None when it is no map."""
    if len(shape) not in (3, 4) or shape[0] != n:
        return None
    if len(shape) == 4:
        if shape[2] == shape[3]:
            return Layout("nchw", shape[1], shape[2])
        return Layout("nhwc", shape[3], shape[1]) if shape[1] == shape[2] else None
    side = math.isqrt(shape[1])
    if side < 2 or shape[1] - side * side > MOST_PREFIX_TOKENS:
        return None
    return Layout("tokens", shape[2], side)
