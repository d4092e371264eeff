"""Crops, flips and quarter turns of images in one padded tensor on the device: a batch is one gather.

What a view goes through is a window of the padded image, then one of the eight ways to lay a square on a square. Both
are worked out for a whole epoch at once, without a pixel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from kdray.data.augment import Augment
from kdray.data.ops import Op, Size
from kdray.data.readonly import tensor_of
from kdray.data.transforms import Flip, PadCrop, Rot90

# How a window is laid down, added up: its rows in reverse order, then its columns, then rows and columns exchanged.
MIRRORED, UPSIDE_DOWN, TRANSPOSED = 1, 2, 4
LAYS = 8


@dataclass(frozen=True)
class GatherPlan:
    """The views of `augment`, each made by at most one pad_crop and any flips and turns; the crop is one for all."""

    augment: Augment
    views: int
    crop: PadCrop

    @staticmethod
    def of(augment: Augment, views: int = 1) -> GatherPlan | None:
        """The plan for these transforms; None where they are more than that."""
        chains = [[op for op, _ in augment.chain(view)] for view in range(views)]
        crops = [[op for op in chain if isinstance(op, PadCrop)] for chain in chains]
        if any(len(found) > 1 for found in crops):
            return None
        if not all(isinstance(op, PadCrop | Flip | Rot90) for chain in chains for op in chain):
            return None
        kinds = {(crop.padding, crop.size, crop.fill): crop for found in crops for crop in found}
        if len(kinds) > 1:
            return None
        return GatherPlan(augment, views, kinds.popitem()[1] if kinds else PadCrop(padding=0))

    def padded(self, images: np.ndarray) -> np.ndarray:
        """`images` uint8 [N, H, W, 3] as a store wants them: [N, H + 2p, W + 2p, 3]."""
        return np.stack([self.crop.pad(image) for image in images]) if self.crop.padding else images

    def size(self, size: Size) -> Size | None:
        """Size of what comes out for images of `size`; None where it cannot be gathered: views of several sizes, or
        quarter turns of what is not square.
        """
        chains = [self.augment.chain(view) for view in range(self.views)]
        sizes = {self.augment.output_size(size, view) for view in range(self.views)}
        only = sizes.pop() if len(sizes) == 1 else None
        turned = any(isinstance(op, Rot90) and op.turns % 2 for chain in chains for op, _ in chain)
        return None if turned and only is not None and only[0] != only[1] else only


@dataclass(frozen=True)
class Crops:
    """The views of an epoch, [steps, V*b]: number of the window's first pixel, and how it is laid down (0..7)."""

    corner: torch.Tensor
    lay: torch.Tensor


class _Frame:
    """Where the pixels of images [...] under transforms lie in their source: pixel (i, j) of the result is at
    (y + dy * i, x + dx * j), or with i and j exchanged where `transposed`. All are int64 [...], `transposed` a bool.
    """

    def __init__(self, shape: tuple[int, ...], size: Size) -> None:
        self.y = self.x = np.zeros(shape, dtype=np.int64)
        self.dy = self.dx = np.ones(shape, dtype=np.int64)
        self.size = size
        self.transposed = False

    def go_through(self, op: Op, u: np.ndarray) -> None:
        """Take up one transform with its numbers `u` float64 [..., draws]."""
        if isinstance(op, PadCrop):
            top, left = op.corners(u, self.size)
            self._move(top - op.padding, left - op.padding)
            self.size = op.crop(self.size)
        elif isinstance(op, Flip):
            self._mirror(op.flips(u))
        elif isinstance(op, Rot90):
            for _ in range(op.turns):  # a quarter turn mirrors, then exchanges rows and columns
                self._mirror(np.bool_(True))
                self.transposed = not self.transposed
                self.size = self.size[1], self.size[0]

    def window(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Top and left of the window in the source, and how it is laid down; each int64 [...]."""
        height, width = reversed(self.size) if self.transposed else self.size
        top = self.y - np.where(self.dy < 0, height - 1, 0)
        left = self.x - np.where(self.dx < 0, width - 1, 0)
        lay = MIRRORED * (self.dx < 0) + UPSIDE_DOWN * (self.dy < 0) + TRANSPOSED * self.transposed
        return top, left, lay

    def _move(self, down: np.ndarray, right: np.ndarray) -> None:
        if self.transposed:
            down, right = right, down
        self.y, self.x = self.y + self.dy * down, self.x + self.dx * right

    def _mirror(self, which: np.ndarray | np.bool_) -> None:
        last = np.where(which, self.size[1] - 1, 0)
        self._move(np.zeros_like(last), last)
        sign = np.where(which, -1, 1)
        if self.transposed:
            self.dy = self.dy * sign
        else:
            self.dx = self.dx * sign


class PixelStore(ABC):
    """Padded images on a device: uint8 [N, H + 2p, W + 2p, 3] as `plan.padded` gives them, whose views `plan` can
    gather. They are not written to.
    """

    def __init__(self, padded: np.ndarray, plan: GatherPlan, device: torch.device) -> None:
        self._plan = plan
        self._device = device
        self._size: Size = (padded.shape[1] - 2 * plan.crop.padding, padded.shape[2] - 2 * plan.crop.padding)
        crop_size = plan.size(self._size)
        if crop_size is None:
            raise ValueError(f"images of {self._size} cannot be gathered")
        self._crop_size: Size = crop_size
        self._width = padded.shape[2]
        self._image_pixels = padded.shape[1] * padded.shape[2]
        self._store(np.ascontiguousarray(padded).reshape(-1, 3))

    @abstractmethod
    def _store(self, pixels: np.ndarray) -> None:
        """Keep the padded images uint8 [N * padded H * padded W, 3]."""

    def crops(self, at: np.ndarray, draws: list[np.ndarray]) -> Crops:
        """All views of the images `at` int64 [steps, b], under the random numbers float64 [steps, b, K] of each."""
        corners, lays = [], []
        padding = self._plan.crop.padding
        for view, u in enumerate(draws):
            frame = _Frame(at.shape, self._size)
            for op, columns in self._plan.augment.chain(view):
                frame.go_through(op, u[..., columns])
            top, left, lay = frame.window()
            corners.append(at * self._image_pixels + (top + padding) * self._width + left + padding)
            lays.append(lay)
        corner, lay = (np.concatenate(parts, axis=1) for parts in (corners, lays))
        return Crops(torch.from_numpy(corner).to(self._device), torch.from_numpy(lay).to(self._device))

    @abstractmethod
    def gather(self, crops: Crops, step: int) -> torch.Tensor:
        """The images of a step: uint8 [V*b, 3, H, W] in channels_last memory, the caller's to change."""


class HostStore(PixelStore):
    """For CPUs: every window is part of one overlapping view, so copying it is copying runs of bytes.

    Windows that are laid down alike are turned together, as one tall image.
    """

    def _store(self, pixels: np.ndarray) -> None:
        height, width = self._crop_size
        last = (height - 1) * self._width + width
        self._windows = np.lib.stride_tricks.as_strided(
            pixels, (len(pixels) - last + 1, height, width * 3), (3, self._width * 3, 1), writeable=False
        )

    def gather(self, crops: Crops, step: int) -> torch.Tensor:
        height, width = self._crop_size
        corner, lay = crops.corner[step].numpy(), crops.lay[step].numpy()
        images = np.empty((len(corner), height, width * 3), dtype=np.uint8)
        for way in range(LAYS):
            which = np.flatnonzero(lay == way)
            if len(which):
                images[which] = self._laid(self._windows[corner[which]], way)
        return torch.from_numpy(images.reshape(-1, height, width, 3)).permute(0, 3, 1, 2)

    def _laid(self, windows: np.ndarray, way: int) -> np.ndarray:
        """Windows uint8 [n, H, W*3] laid down, of the same shape: those that are transposed are square."""
        n, (height, width) = len(windows), self._crop_size
        if way & MIRRORED:
            windows = cv2.flip(windows.reshape(n * height, width, 3), 1).reshape(n, height, width * 3)
        if way & UPSIDE_DOWN:
            windows = windows[:, ::-1]
        if way & TRANSPOSED:
            tall = np.ascontiguousarray(windows).reshape(n * height, width, 3)
            windows = cv2.transpose(tall).reshape(width, n, height * 3).transpose(1, 0, 2)
        return windows


class DeviceStore(PixelStore):
    """For GPUs: the pixels of a batch by their numbers, in one index; nothing waits for the device."""

    def _store(self, pixels: np.ndarray) -> None:
        height, width = self._crop_size
        self._pixels = tensor_of(pixels).to(self._device)
        grid = np.arange(height)[:, None] * self._width + np.arange(width)
        upright = [grid, grid[:, ::-1], grid[::-1], grid[::-1, ::-1]]
        # Windows that are not square are never transposed.
        transposed = [way.T if height == width else way for way in upright]
        self._grids = torch.from_numpy(np.stack(upright + transposed)).to(self._device)  # [LAYS, H, W]

    def gather(self, crops: Crops, step: int) -> torch.Tensor:
        corner, lay = crops.corner[step, :, None, None], crops.lay[step]
        return self._pixels[corner + self._grids[lay]].permute(0, 3, 1, 2)


def pixel_store(padded: np.ndarray, plan: GatherPlan, device: torch.device) -> PixelStore:
    """The store for images uint8 [N, H + 2p, W + 2p, 3], padded, that is fast on `device`."""
    return (HostStore if device.type == "cpu" else DeviceStore)(padded, plan, device)
