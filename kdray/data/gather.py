"""Crops and flips of images in one padded tensor on the device: a batch is one gather, whatever its samples.

The pixels of a crop lie in the padded images in rows that start at one flat pixel number and step by one, or by minus
one where it is mirrored. These numbers are worked out for a whole epoch at once.
"""

from __future__ import annotations

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


class PixelStore:
    """Padded images on the device. `images` uint8 [N, H, W, 3]."""

    def __init__(self, images: np.ndarray, plan: GatherPlan, device: torch.device) -> None:
        self._plan = plan
        self._device = device
        self.size: Size = (images.shape[1], images.shape[2])
        self.crop_size = plan.crop.crop(self.size)
        padded = np.stack([plan.crop.pad(image) for image in images]) if plan.crop.padding else images
        self._width = padded.shape[2]
        self._pixels_per_image = padded.shape[1] * padded.shape[2]
        height, width = self.crop_size
        if device.type == "cpu":
            # Every crop is a window of this overlapping view, so that copying it is copying `height` runs of bytes.
            flat = np.ascontiguousarray(padded).reshape(-1, 3)
            last = (height - 1) * self._width + width
            self._windows = np.lib.stride_tricks.as_strided(
                flat, (len(flat) - last + 1, height, width * 3), (3, self._width * 3, 1), writeable=False
            )
        else:
            self._flat = torch.from_numpy(padded.reshape(-1, 3)).to(device)
            down = torch.arange(height, device=device) * self._width
            self._grid = down[:, None] + torch.arange(width, device=device)[None, :]
            # From a crop's leftmost column to the mirrored one: width-1-2j further at column j.
            self._mirror = (width - 1 - 2 * torch.arange(width, device=device))[None, :].expand(height, width)

    def crops(self, at: np.ndarray, u: np.ndarray) -> Crops:
        """The crops of images `at` int64 [steps, n] under the random numbers `u` float64 [steps, n, K]."""
        plan, width = self._plan, self.crop_size[1]
        top = left = np.zeros(at.shape, dtype=np.int64)
        mirrored = np.zeros(at.shape, dtype=bool)
        if plan.crop_columns is not None:
            top, left = plan.crop.corners(u[..., plan.crop_columns], self.size)
        if plan.flip is not None and plan.flip_columns is not None:
            mirrored = plan.flip.flips(u[..., plan.flip_columns])
        if plan.flip_first:  # the crop's place was drawn in the mirrored image
            left = np.where(mirrored, self._width - width - left, left)
        corner = at * self._pixels_per_image + top * self._width + left
        return Crops(torch.from_numpy(corner).to(self._device), torch.from_numpy(mirrored).to(self._device))

    def gather(self, crops: Crops, step: int) -> torch.Tensor:
        """The images of a step: uint8 [n, 3, H, W] in channels_last memory."""
        height, width = self.crop_size
        corner, mirrored = crops.corner[step], crops.mirrored[step]
        if self._device.type == "cpu":
            pixels = self._windows[corner.numpy()].reshape(-1, height, width, 3)
            which = np.flatnonzero(mirrored.numpy())
            if len(which):
                whole = pixels.reshape(-1).view("V3").reshape(-1, height, width)  # three bytes move as one
                whole[which] = whole[which][:, :, ::-1]
            return torch.from_numpy(pixels).permute(0, 3, 1, 2)
        numbers = corner[:, None, None] + self._grid + mirrored[:, None, None] * self._mirror
        return self._flat[numbers].permute(0, 3, 1, 2)
