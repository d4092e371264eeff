"""Colour and blur: the other half of the augmentation of SimCLR (Chen et al., ICML 2020, appendix A).

Colours are worked out as torchvision does on Pillow images, to the bit. Defaults are SimCLR's at half strength, those
of small images.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import cv2
import numpy as np
from PIL import Image, ImageEnhance
from pydantic import AfterValidator, Field

from kdray.data.ops import Op, register
from kdray.data.transforms import Range
from kdray.experiment.bounds import Count, NonNegative, Unit
from kdray.experiment.part import refuse


def shift_hue(image: Image.Image, hue: float) -> Image.Image:
    """Turn the colour circle by `hue` (-0.5..0.5 of it)."""
    parts = list(image.convert("HSV").split())
    turned = np.asarray(parts[0]).astype(np.int32) + int(hue * 255)
    parts[0] = Image.fromarray((turned % 256).astype(np.uint8))
    return Image.merge("HSV", parts).convert("RGB")


@register("color_jitter")
class ColorJitter(Op):
    """With probability `p`, change brightness, contrast, saturation and hue, in a random order.

    The first three by a factor in [max(0, 1 - x), 1 + x], the hue by a part of the colour circle in [-x, x].
    """

    DRAWS: ClassVar[int] = 9  # whether, four strengths, four numbers whose order is that of the changes
    brightness: NonNegative = 0.4
    contrast: NonNegative = 0.4
    saturation: NonNegative = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    p: Unit = 0.8

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        if u[0] >= self.p:
            return image
        picture = Image.fromarray(np.ascontiguousarray(image))
        kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for number in np.argsort(u[5:], kind="stable"):
            strength = (self.brightness, self.contrast, self.saturation, self.hue)[number]
            if not strength:
                continue
            if number == 3:
                picture = shift_hue(picture, strength * (2 * u[4] - 1))
            else:
                low, high = max(0.0, 1 - strength), 1 + strength
                picture = kinds[number](picture).enhance(low + u[1 + number] * (high - low))
        return np.asarray(picture)


@register("random_grayscale")
class RandomGrayscale(Op):
    """Replace the colours by their luminance (ITU-R 601-2) with probability `p`."""

    DRAWS: ClassVar[int] = 1
    p: Unit = 0.2

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        if u[0] >= self.p:
            return image
        grey = np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))
        return np.repeat(grey[:, :, None], 3, axis=2)


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise refuse("wants an odd number of pixels", "Write 3, 5, 7", (), value)
    return value


@register("gaussian_blur")
class GaussianBlur(Op):
    """With probability `p`, blur with a standard deviation in `sigma` pixels.

    The kernel covers `kernel_size` pixels, by default about a tenth of the shorter side and at least 3.
    """

    DRAWS: ClassVar[int] = 2
    sigma: Range = (0.1, 2.0)
    kernel_size: Annotated[Count, AfterValidator(_odd)] | None = None
    p: Unit = 0.5

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        if u[0] >= self.p:
            return image
        side = self.kernel_size or max(3, min(image.shape[:2]) // 20 * 2 + 1)
        sigma = self.sigma[0] + u[1] * (self.sigma[1] - self.sigma[0])
        return cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101)
