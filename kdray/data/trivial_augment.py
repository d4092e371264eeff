"""TrivialAugment: one operation at one strength, both drawn for every image; nothing to tune.

Müller and Hutter (ICCV 2021, arXiv:2103.10158), in its "wide" ranges, as torchvision's TrivialAugmentWide on Pillow
images.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from kdray.data.ops import Op, register
from kdray.data.rand_augment import OPERATIONS, at_step, bits_at_step

_SHEAR, _SHIFT, _DEGREES, _ENHANCE, _BITS = 0.99, 32.0, 135.0, 0.99, 6  # the strongest levels; shifts in pixels
_NAMES = tuple(OPERATIONS)


@register("trivial_augment")
class TrivialAugment(Op):
    """Apply one random operation of RandAugment's, at a random one of `num_magnitude_bins` steps of its wide range.

    `fill` is the grey value 0..255 of what shears, shifts and rotations move in.
    """

    DRAWS: ClassVar[int] = 3  # which operation, how strong, its sign
    num_magnitude_bins: Annotated[int, Field(ge=2, le=1000)] = 31
    fill: Annotated[int, Field(ge=0, le=255)] = 0

    def level(self, name: str, step: int) -> float:
        """Strength of the operation `name` at `step` 0..num_magnitude_bins - 1, before its sign."""
        bins = self.num_magnitude_bins
        match name:
            case "shear_x" | "shear_y":
                return at_step(_SHEAR, step, bins)
            case "translate_x" | "translate_y":
                return at_step(_SHIFT, step, bins)
            case "rotate":
                return at_step(_DEGREES, step, bins)
            case "brightness" | "color" | "contrast" | "sharpness":
                return at_step(_ENHANCE, step, bins)
            case "posterize":
                return bits_at_step(_BITS, step, bins)
            case "solarize":
                return at_step(0.0, step, bins, start=255.0)
        return 0.0

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        which, strong, sign = u.tolist()
        name = _NAMES[int(which * len(_NAMES))]
        operation, signed = OPERATIONS[name]
        level = self.level(name, int(strong * self.num_magnitude_bins))
        picture = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(operation(picture, -level if signed and sign < 0.5 else level, self.fill))
