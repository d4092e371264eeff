"""RandAugment: a few of fourteen operations at one strength, drawn for every image.

Cubuk et al. (NeurIPS 2020, arXiv:1909.13719), with the operations and strengths of torchvision's RandAugment on Pillow
images, nearest neighbours included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from pydantic import Field, model_validator

from kdray.data.ops import Op, register
from kdray.experiment.bounds import Count, Natural
from kdray.experiment.part import refuse

Operation = Callable[[Image.Image, float, int], Image.Image]  # image, level, grey value of what moves in

# The strongest levels; shifts are parts of a side.
_SHEAR, _SHIFT, _DEGREES, _ENHANCE, _BITS = 0.3, 150.0 / 331.0, 30.0, 0.9, 4


def _moved(matrix: Callable[[float], tuple[float, ...]]) -> Operation:
    """Fill pixel (x, y) from (a x + b y + c, d x + e y + f), of the matrix (a, ..., f) at a level."""

    def move(image: Image.Image, level: float, fill: int) -> Image.Image:
        affine = Image.Transform.AFFINE
        return image.transform(image.size, affine, matrix(level), Image.Resampling.NEAREST, fillcolor=(fill,) * 3)

    return move


def _rotated(image: Image.Image, level: float, fill: int) -> Image.Image:
    return image.rotate(level, Image.Resampling.NEAREST, fillcolor=(fill,) * 3)


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, level, fill: kind(image).enhance(1.0 + level)


def at_step(strongest: float, step: int, bins: int, start: float = 0.0) -> float:
    """Number `step` of `bins` from `start` to `strongest`, as torch.linspace makes it in float32, to the bit: counted
    from the nearer end, with one rounding. A level that is off in its last bit moves a pixel here and there.
    """
    first, last = float(np.float32(start)), float(np.float32(strongest))
    gap = float((np.float32(last) - np.float32(first)) / np.float32(bins - 1))
    return float(np.float32(first + gap * step if step < bins // 2 else last - gap * (bins - 1 - step)))


def bits_at_step(fewer: int, step: int, bins: int) -> int:
    """Bits that posterize leaves of 8, where the strongest takes `fewer` of them."""
    return 8 - round(float(np.float32(step) / np.float32((bins - 1) / fewer)))


def level_of(name: str, step: int, bins: int, width: int, height: int) -> float:
    """Strength of the operation `name` at `step` 0..bins - 1, before its sign, on images of this size."""
    match name:
        case "shear_x" | "shear_y":
            return at_step(_SHEAR, step, bins)
        case "translate_x":
            return at_step(_SHIFT * width, step, bins)
        case "translate_y":
            return at_step(_SHIFT * height, step, bins)
        case "rotate":
            return at_step(_DEGREES, step, bins)
        case "brightness" | "color" | "contrast" | "sharpness":
            return at_step(_ENHANCE, step, bins)
        case "posterize":
            return bits_at_step(_BITS, step, bins)
        case "solarize":
            return at_step(0.0, step, bins, start=255.0)
    return 0.0


# Name: the operation, and whether its level has a sign.
OPERATIONS: dict[str, tuple[Operation, bool]] = {
    "identity": (lambda image, level, fill: image, False),
    "shear_x": (_moved(lambda m: (1, m, 0, 0, 1, 0)), True),
    "shear_y": (_moved(lambda m: (1, 0, 0, m, 1, 0)), True),
    "translate_x": (_moved(lambda m: (1, 0, -int(m), 0, 1, 0)), True),
    "translate_y": (_moved(lambda m: (1, 0, 0, 0, 1, -int(m))), True),
    "rotate": (_rotated, True),
    "brightness": (_enhanced(ImageEnhance.Brightness), True),
    "color": (_enhanced(ImageEnhance.Color), True),
    "contrast": (_enhanced(ImageEnhance.Contrast), True),
    "sharpness": (_enhanced(ImageEnhance.Sharpness), True),
    "posterize": (lambda image, level, fill: ImageOps.posterize(image, int(level)), False),
    "solarize": (lambda image, level, fill: ImageOps.solarize(image, level), False),  # type: ignore[arg-type]
    "auto_contrast": (lambda image, level, fill: ImageOps.autocontrast(image), False),
    "equalize": (lambda image, level, fill: ImageOps.equalize(image), False),
}
_NAMES = tuple(OPERATIONS)


@register("rand_augment")
class RandAugment(Op):
    """Apply `num_ops` random operations of RandAugment, at step `magnitude` of `num_magnitude_bins`.

    `fill` is the grey value 0..255 of what shears, shifts and rotations move in.
    """

    num_ops: Count = 2
    magnitude: Natural = 9
    num_magnitude_bins: Annotated[int, Field(ge=2, le=1000)] = 31
    fill: Annotated[int, Field(ge=0, le=255)] = 0

    _PER_OP: ClassVar[int] = 2  # which operation, and its sign

    @model_validator(mode="after")
    def _in_the_bins(self) -> RandAugment:
        if self.magnitude >= self.num_magnitude_bins:
            last = self.num_magnitude_bins - 1
            raise refuse(f"magnitude is at most {last}", "Raise num_magnitude_bins", ("magnitude",), self.magnitude)
        return self

    @property
    def draws(self) -> int:
        return self._PER_OP * self.num_ops

    def level(self, name: str, width: int, height: int) -> float:
        """Strength of the operation `name` before its sign, on images of this size."""
        return level_of(name, self.magnitude, self.num_magnitude_bins, width, height)

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(image))
        for which, sign in u.reshape(-1, self._PER_OP):
            name = _NAMES[int(which * len(_NAMES))]
            operation, signed = OPERATIONS[name]
            level = self.level(name, *picture.size)
            picture = operation(picture, -level if signed and sign < 0.5 else level, self.fill)
        return np.asarray(picture)
