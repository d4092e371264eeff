"""The transforms: crops, flips, turns and resizes of uint8 images, with torchvision's geometry."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
from pydantic import BeforeValidator, Field

from kdray.data.ops import Op, Size, register
from kdray.data.resize import resize_to
from kdray.errors import DataError
from kdray.experiment.bounds import Count, Natural, Positive, Unit
from kdray.experiment.part import refuse


def _pair(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(isinstance(v, int | float) for v in value):
        raise refuse("wants two numbers", "Write [low, high]", (), value)
    if not 0 < value[0] <= value[1]:
        raise refuse("wants two numbers above 0 that do not fall", "Write [low, high]", (), value)
    return tuple(float(v) for v in value)


Range = Annotated[tuple[Positive, Positive], BeforeValidator(_pair)]


@register("pad_crop")
class PadCrop(Op):
    """Pad all sides by `padding`, then crop `size` (default: the image's own) at a random place.

    `fill` is a grey value 0..255, or reflect. The classic CIFAR augmentation (He et al., CVPR 2016).
    """

    DRAWS: ClassVar[int] = 2
    padding: Natural = 4
    size: Count | None = None
    fill: Annotated[int, Field(ge=0, le=255)] | Literal["reflect"] = 0

    def pad(self, image: np.ndarray) -> np.ndarray:
        """Return uint8 [H + 2p, W + 2p, 3]."""
        p = self.padding
        if self.fill == "reflect":
            return cv2.copyMakeBorder(image, p, p, p, p, cv2.BORDER_REFLECT_101)
        return cv2.copyMakeBorder(image, p, p, p, p, cv2.BORDER_CONSTANT, value=(self.fill,) * 3)

    def corners(self, u: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Return top and left int64 [...] of the crop in the padded image, for `u` [..., 2] and images of `size`.

        Raises:
            DataError: the padded image is smaller than the crop.
        """
        top, left = (np.floor(u[..., i] * (room + 1)).astype(np.int64) for i, room in enumerate(self.rooms(size)))
        return top, left

    def rooms(self, size: Size) -> Size:
        """How far down and right a crop can begin in the padded image, for images of `size`; DataError as `corners`."""
        height, width = self.crop(size)
        rooms = size[0] + 2 * self.padding - height, size[1] + 2 * self.padding - width
        if min(rooms) < 0:
            raise DataError(
                f"an image of {size[1]} x {size[0]} padded by {self.padding} is smaller than the crop of {self.size}",
                where="pad_crop",
                fix="Raise padding, or resize before",
            )
        return rooms

    def crop(self, size: Size) -> Size:
        """Size of the crop for images of `size`."""
        return size if self.size is None else (self.size, self.size)

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        size = (image.shape[0], image.shape[1])
        height, width = self.crop(size)
        (room_y, room_x), (down, right) = self.rooms(size), u.tolist()
        top, left = int(down * (room_y + 1)), int(right * (room_x + 1))
        return self.pad(image)[top : top + height, left : left + width]

    def output_size(self, size: Size | None) -> Size | None:
        return (self.size, self.size) if self.size is not None else size


@register("flip")
class Flip(Op):
    """Mirror left and right with probability `p`."""

    DRAWS: ClassVar[int] = 1
    p: Unit = 0.5

    def flips(self, u: np.ndarray) -> np.ndarray:
        """Whether to mirror, bool [...], for `u` [..., 1]."""
        return u[..., 0] < self.p

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        return cv2.flip(image, 1) if u[0] < self.p else image


@register("rot90")
class Rot90(Op):
    """Turn by `turns` times 90 degrees, counter-clockwise."""

    CODES: ClassVar[tuple[int, ...]] = (cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)
    turns: Annotated[int, Field(ge=0, le=3)] = 1

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        return cv2.rotate(image, self.CODES[self.turns - 1]) if self.turns else image

    def output_size(self, size: Size | None) -> Size | None:
        return (size[1], size[0]) if size is not None and self.turns % 2 else size


@register("rot90_views")
class Rot90Views(Op):
    """Turn view v by v times 90 degrees, counter-clockwise: four views are an image's four rotations.

    Images that are not square come out in two sizes, unless a later transform states one, such as the `size` of
    pad_crop. The self-supervised task of Gidaris et al. (ICLR 2018), as in SSKD (ECCV 2020).
    """

    def of_view(self, view: int) -> Op | None:
        turns = view % 4
        return Rot90(turns=turns) if turns and super().of_view(view) else None

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        return image  # upright: in every other view a Rot90 stands in its place


@register("random_resized_crop")
class RandomResizedCrop(Op):
    """Crop a random part of `scale` of the area and of aspect `ratio`, resize it to `size` x `size`.

    The Inception crop (Szegedy et al., CVPR 2015) with torchvision's ten tries and central fallback.
    """

    TRIES: ClassVar[int] = 10
    DRAWS: ClassVar[int] = 2 * TRIES + 2
    size: Count
    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)

    def box(self, u: np.ndarray, size: Size) -> tuple[int, int, int, int]:
        """Return top, left, height, width of the crop in an image of `size`."""
        height, width = size
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for i in range(self.TRIES):
            area = height * width * (self.scale[0] + u[2 * i] * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + u[2 * i + 1] * (high - low))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(u[-2] * (height - h + 1)), int(u[-1] * (width - w + 1)), h, w
        w, h = width, height
        if width < height * self.ratio[0]:
            h = max(1, round(width / self.ratio[0]))  # of a line of pixels nothing would be left
        elif width > height * self.ratio[1]:
            w = max(1, round(height * self.ratio[1]))
        return (height - h) // 2, (width - w) // 2, h, w

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        top, left, height, width = self.box(u, (image.shape[0], image.shape[1]))
        return resize_to(image[top : top + height, left : left + width], (self.size, self.size))

    def output_size(self, size: Size | None) -> Size | None:
        return self.size, self.size


@register("resize")
class Resize(Op):
    """Resize so that the shorter side is `size`, keeping the aspect."""

    size: Count

    def target(self, size: Size) -> Size:
        """Size of the result for an image of `size`."""
        height, width = size
        if height <= width:
            return self.size, max(self.size, int(self.size * width / height))
        return max(self.size, int(self.size * height / width)), self.size

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        return resize_to(image, self.target((image.shape[0], image.shape[1])))

    def output_size(self, size: Size | None) -> Size | None:
        return None if size is None else self.target(size)


@register("center_crop")
class CenterCrop(Op):
    """Cut the middle `size` x `size`."""

    size: Count

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        if min(height, width) < self.size:
            raise DataError(
                f"an image of {width} x {height} is smaller than the crop of {self.size}",
                where="center_crop",
                fix=f"Put {{resize: {{size: {self.size}}}}} before it",
            )
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return image[top : top + self.size, left : left + self.size]

    def output_size(self, size: Size | None) -> Size | None:
        return self.size, self.size
