"""Random erasing: a rectangle of the image is painted over (Zhong et al., AAAI 2020, arXiv:1708.04896)."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field

from kdray.data.ops import Op, Size, register
from kdray.data.transforms import Range
from kdray.experiment.bounds import Unit
from kdray.experiment.part import refuse

Level = Annotated[int, Field(ge=0, le=255)]


def _part(value: tuple[float, float]) -> tuple[float, float]:
    if value[1] > 1:
        raise refuse("wants parts of the area, at most 1", "Write [low, high]", (), value)
    return value


def _value(value: Any) -> Any:
    levels = [value] if isinstance(value, int) else value
    right = isinstance(levels, list | tuple) and len(levels) in (1, 3)
    right = right and all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in levels)
    if value == "noise":
        return value
    if not right:
        raise refuse("wants grey levels 0..255", "Write 0, or [124, 116, 104], or noise", (), value)
    return tuple(levels) * (3 // len(levels))


@register("random_erasing")
class RandomErasing(Op):
    """With probability `p`, paint over a rectangle of `scale` of the area and of aspect `ratio` (height / width).

    `value` is a grey level 0..255, [red, green, blue], or noise: a random level for every channel of every pixel. Place
    and size are drawn as torchvision's RandomErasing does; ten tries that do not fit leave the image as it is.

    torchvision's works on normalised tensors, this one on bytes that are normalised later. Its value 0 is the mean
    colour here: ImageNet's, by default, which becomes 0 within a hundredth where ImageNet's statistics normalise. Its
    "random" is normal with standard deviation 1 in normalised units; noise here is even over 0..255, about 1.3 in them.
    Put it last, as there: crops and colours after it would treat what is painted as a part of the image.
    """

    TRIES: ClassVar[int] = 10
    DRAWS: ClassVar[int] = 2 * TRIES + 4  # whether, the tries, top, left, the key of the noise
    p: Unit = 0.5
    scale: Annotated[Range, AfterValidator(_part)] = (0.02, 0.33)
    ratio: Range = (0.3, 3.3)
    value: Annotated[tuple[Level, Level, Level] | Literal["noise"], BeforeValidator(_value)] = (124, 116, 104)

    def box(self, u: np.ndarray, size: Size) -> tuple[int, int, int, int] | None:
        """Return top, left, height, width of what is painted in an image of `size`; None where nothing is."""
        height, width = size
        if u[0] >= self.p:
            return None
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for i in range(1, 2 * self.TRIES, 2):
            area = height * width * (self.scale[0] + u[i] * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + u[i + 1] * (high - low))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                return int(u[-3] * (height - h + 1)), int(u[-2] * (width - w + 1)), h, w
        return None

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        box = self.box(u, (image.shape[0], image.shape[1]))
        if box is None:
            return image
        top, left, height, width = box
        image = image.copy()
        image[top : top + height, left : left + width] = (
            noise(u[-1], (height, width)) if self.value == "noise" else self.value
        )
        return image


def noise(u: float, size: Size) -> np.ndarray:
    """uint8 [H, W, 3], every value as likely, a function of `u` in [0, 1) and the size alone."""
    count = 3 * size[0] * size[1]
    words = np.random.Philox(key=int(u * 2**53)).random_raw(-(-count // 8))  # the raw stream never changes with numpy
    return words.astype("<u8").view(np.uint8)[:count].reshape(*size, 3)
