"""Crops and flips of images in one padded tensor on the device: a batch is one gather, whatever its samples.

The pixels of a crop lie in the padded images in rows that start at one flat pixel number and step by one, or by minus
one where it is mirrored. These numbers are worked out for a whole epoch at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch

from kdray.data.augment import Augment
from kdray.data.ops import Size
from kdray.data.transforms import Flip, PadCrop


@dataclass(frozen=True)
class GatherPlan:
    """At most one pad_crop and one flip, and where their random numbers stand."""

    crop: PadCrop
    flip: Flip | None
    crop_columns: slice | None
    flip_columns: slice | None
    flip_first: bool

    @staticmethod
    def of(augment: Augment) -> GatherPlan | None:
        """The plan for these transforms; None where they are more than one crop and one flip."""
        crops = [i for i, op in enumerate(augment.ops) if isinstance(op, PadCrop)]
        flips = [i for i, op in enumerate(augment.ops) if isinstance(op, Flip)]
        if len(crops) > 1 or len(flips) > 1 or len(crops) + len(flips) < len(augment.ops):
            return None
        columns = augment.columns()
        crop = augment.ops[crops[0]] if crops else PadCrop(padding=0)
        flip = augment.ops[flips[0]] if flips else None
        assert isinstance(crop, PadCrop) and (flip is None or isinstance(flip, Flip))
        return GatherPlan(
            crop,
            flip,
            columns[crops[0]] if crops else None,
            columns[flips[0]] if flips else None,
            bool(crops and flips and flips[0] < crops[0]),
        )


@dataclass(frozen=True)
class Crops:
    """The crops of an epoch, [steps, n]: number of the leftmost pixel of the first row, and whether it is mirrored."""

    corner: torch.Tensor
    mirrored: torch.Tensor


class PixelStore(ABC):
    """Padded images on a device. `images` uint8 [N, H, W, 3]."""

    def __init__(self, images: np.ndarray, plan: GatherPlan, device: torch.device) -> None:
        self._plan = plan
        self._device = device
        self._size: Size = (images.shape[1], images.shape[2])
        self._crop_size = plan.crop.crop(self._size)
        padded = np.stack([plan.crop.pad(image) for image in images]) if plan.crop.padding else images
        self._width = padded.shape[2]
        self._image_pixels = padded.shape[1] * padded.shape[2]
        self._store(np.ascontiguousarray(padded).reshape(-1, 3))

    @abstractmethod
    def _store(self, pixels: np.ndarray) -> None:
        """Keep the padded images uint8 [N * padded H * padded W, 3]."""

    def crops(self, at: np.ndarray, u: np.ndarray) -> Crops:
        """The crops of images `at` int64 [steps, n] under the random numbers `u` float64 [steps, n, K]."""
        plan, width = self._plan, self._crop_size[1]
        top = left = np.zeros(at.shape, dtype=np.int64)
        mirrored = np.zeros(at.shape, dtype=bool)
        if plan.crop_columns is not None:
            top, left = plan.crop.corners(u[..., plan.crop_columns], self._size)
        if plan.flip is not None and plan.flip_columns is not None:
            mirrored = plan.flip.flips(u[..., plan.flip_columns])
        if plan.flip_first:  # the crop's place was drawn in the mirrored image
            left = np.where(mirrored, self._width - width - left, left)
        corner = at * self._image_pixels + top * self._width + left
        return Crops(torch.from_numpy(corner).to(self._device), torch.from_numpy(mirrored).to(self._device))

    @abstractmethod
    def gather(self, crops: Crops, step: int) -> torch.Tensor:
        """The images of a step: uint8 [n, 3, H, W] in channels_last memory, the caller's to change."""


class HostStore(PixelStore):
    """For CPUs: every crop is a window of one overlapping view, so copying it is copying runs of bytes."""

    def _store(self, pixels: np.ndarray) -> None:
        height, width = self._crop_size
        last = (height - 1) * self._width + width
        self._windows = np.lib.stride_tricks.as_strided(
            pixels, (len(pixels) - last + 1, height, width * 3), (3, self._width * 3, 1), writeable=False
        )

    def gather(self, crops: Crops, step: int) -> torch.Tensor:
        height, width = self._crop_size
        pixels = self._windows[crops.corner[step].numpy()].reshape(-1, height, width, 3)
        which = np.flatnonzero(crops.mirrored[step].numpy())
        if len(which):
            whole = pixels.reshape(-1).view("V3").reshape(-1, height, width)  # three bytes move as one
            whole[which] = whole[which][:, :, ::-1]
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


class DeviceStore(PixelStore):
    """For GPUs: the pixels of a batch by their numbers, in one index; nothing waits for the device."""

    def _store(self, pixels: np.ndarray) -> None:
        height, width = self._crop_size
        self._pixels = torch.from_numpy(pixels).to(self._device)
        down, right = torch.arange(height, device=self._device), torch.arange(width, device=self._device)
        self._grid = down[:, None] * self._width + right
        self._mirror = (width - 1 - 2 * right)[None, :]  # from column j to column width-1-j

    def gather(self, crops: Crops, step: int) -> torch.Tensor:
        corner, mirrored = crops.corner[step, :, None, None], crops.mirrored[step, :, None, None]
        return self._pixels[corner + self._grid + mirrored * self._mirror].permute(0, 3, 1, 2)


def pixel_store(images: np.ndarray, plan: GatherPlan, device: torch.device) -> PixelStore:
    """The store for `images` uint8 [N, H, W, 3] that is fast on `device`."""
    return (HostStore if device.type == "cpu" else DeviceStore)(images, plan, device)
