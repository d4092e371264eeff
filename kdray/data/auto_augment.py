"""AutoAugment: one of 25 learned pairs of operations, drawn for every image.

Cubuk et al. (CVPR 2019, arXiv:1805.09501): the policies that were found on ImageNet, CIFAR-10 and SVHN, with the
operations and strengths of torchvision's AutoAugment on Pillow images.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from PIL import Image, ImageOps
from pydantic import Field

from kdray.data.ops import Op, register
from kdray.data.rand_augment import OPERATIONS, level_of

_BINS = 10
_OPERATIONS = OPERATIONS | {"invert": (lambda image, level, fill: ImageOps.invert(image), False)}

# A line is a pair: operation, its probability, its step of ten (0 where it has no strength).
_IMAGENET = """
posterize 0.4 8, rotate 0.6 9
solarize 0.6 5, auto_contrast 0.6 0
equalize 0.8 0, equalize 0.6 0
posterize 0.6 7, posterize 0.6 6
equalize 0.4 0, solarize 0.2 4
equalize 0.4 0, rotate 0.8 8
solarize 0.6 3, equalize 0.6 0
posterize 0.8 5, equalize 1 0
rotate 0.2 3, solarize 0.6 8
equalize 0.6 0, posterize 0.4 6
rotate 0.8 8, color 0.4 0
rotate 0.4 9, equalize 0.6 0
equalize 0 0, equalize 0.8 0
invert 0.6 0, equalize 1 0
color 0.6 4, contrast 1 8
rotate 0.8 8, color 1 2
color 0.8 8, solarize 0.8 7
sharpness 0.4 7, invert 0.6 0
shear_x 0.6 5, equalize 1 0
color 0.4 0, equalize 0.6 0
equalize 0.4 0, solarize 0.2 4
solarize 0.6 5, auto_contrast 0.6 0
invert 0.6 0, equalize 1 0
color 0.6 4, contrast 1 8
equalize 0.8 0, equalize 0.6 0
"""
_CIFAR10 = """
invert 0.1 0, contrast 0.2 6
rotate 0.7 2, translate_x 0.3 9
sharpness 0.8 1, sharpness 0.9 3
shear_y 0.5 8, translate_y 0.7 9
auto_contrast 0.5 0, equalize 0.9 0
shear_y 0.2 7, posterize 0.3 7
color 0.4 3, brightness 0.6 7
sharpness 0.3 9, brightness 0.7 9
equalize 0.6 0, equalize 0.5 0
contrast 0.6 7, sharpness 0.6 5
color 0.7 7, translate_x 0.5 8
equalize 0.3 0, auto_contrast 0.4 0
translate_y 0.4 3, sharpness 0.2 6
brightness 0.9 6, color 0.2 8
solarize 0.5 2, invert 0 0
equalize 0.2 0, auto_contrast 0.6 0
equalize 0.2 0, equalize 0.6 0
color 0.9 9, equalize 0.6 0
auto_contrast 0.8 0, solarize 0.2 8
brightness 0.1 3, color 0.7 0
solarize 0.4 5, auto_contrast 0.9 0
translate_y 0.9 9, translate_y 0.7 9
auto_contrast 0.9 0, solarize 0.8 3
equalize 0.8 0, invert 0.1 0
translate_y 0.7 9, auto_contrast 0.9 0
"""
_SVHN = """
shear_x 0.9 4, invert 0.2 0
shear_y 0.9 8, invert 0.7 0
equalize 0.6 0, solarize 0.6 6
invert 0.9 0, equalize 0.6 0
equalize 0.6 0, rotate 0.9 3
shear_x 0.9 4, auto_contrast 0.8 0
shear_y 0.9 8, invert 0.4 0
shear_y 0.9 5, solarize 0.2 6
invert 0.9 0, auto_contrast 0.8 0
equalize 0.6 0, rotate 0.9 3
shear_x 0.9 4, solarize 0.3 3
shear_y 0.8 8, invert 0.7 0
equalize 0.9 0, translate_y 0.6 6
invert 0.9 0, equalize 0.6 0
contrast 0.3 3, rotate 0.8 4
invert 0.8 0, translate_y 0 2
shear_y 0.7 6, solarize 0.4 8
invert 0.6 0, rotate 0.8 4
shear_y 0.3 7, translate_x 0.9 3
shear_x 0.1 6, invert 0.6 0
solarize 0.7 2, translate_y 0.6 7
shear_y 0.8 4, invert 0.8 0
shear_x 0.7 9, translate_y 0.8 3
shear_y 0.8 5, auto_contrast 0.7 0
shear_x 0.7 2, invert 0.1 0
"""

Step = tuple[str, float, int]


def _pairs(text: str) -> list[list[Step]]:
    steps = [[part.split() for part in line.split(",")] for line in text.strip().splitlines()]
    return [[(name, float(p), int(step)) for name, p, step in pair] for pair in steps]


POLICIES = {"imagenet": _pairs(_IMAGENET), "cifar10": _pairs(_CIFAR10), "svhn": _pairs(_SVHN)}


@register("auto_augment")
class AutoAugment(Op):
    """Apply one random pair of operations of `policy`, each with its own probability.

    `fill` is the grey value 0..255 of what shears, shifts and rotations move in.
    """

    DRAWS: ClassVar[int] = 5  # which pair; for each of its operations, whether, and its sign
    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    fill: Annotated[int, Field(ge=0, le=255)] = 0

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        pairs = POLICIES[self.policy]
        picture = Image.fromarray(np.ascontiguousarray(image))
        for (name, p, step), whether, sign in zip(pairs[int(u[0] * len(pairs))], u[1::2], u[2::2], strict=True):
            if whether < p:
                operation, signed = _OPERATIONS[name]
                level = level_of(name, step, _BINS, *picture.size)
                picture = operation(picture, -level if signed and sign < 0.5 else level, self.fill)
        return np.asarray(picture)
