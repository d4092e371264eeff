"""Resizing as Pillow does it, and so torchvision's loader, within one grey level, in a fraction of its time.

Pillow's bilinear filter widens with the scale where a side shrinks (antialiasing) and is plain bilinear where it grows.
OpenCV's INTER_LINEAR is the same where both sides grow; where one shrinks it aliases, and its INTER_AREA is another
filter, tens of grey levels away. PyTorch's antialiased operator is Pillow's algorithm with vector instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from PIL import Image

from kdray.data.decode import MAX_PIXELS, BadImage

Resizer = Callable[[np.ndarray, tuple[int, int]], np.ndarray]


def resize_to(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 [H, W, 3] to `size` (height, width), bilinear, without aliasing; works in the calling thread alone.

    An image that has the size is given back as it is.

    Raises:
        BadImage: the result would have more than MAX_PIXELS pixels.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    if size[0] * size[1] > MAX_PIXELS:  # a line of pixels whose shorter side grows: a file of 1 KB asks for 12 GB
        raise BadImage(too_large((height, width), size))
    if height <= size[0] and width <= size[1]:
        return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return _shrink()(image, size)


def too_large(size: tuple[int, int], target: tuple[int, int]) -> str:
    """Why an image of `size` (height, width) is not resized to `target`."""
    return f"{size[1]} x {size[0]} pixels, to become {target[1]} x {target[0]}, more than {MAX_PIXELS}"


@cache
def _shrink() -> Resizer:
    """The antialiased resize of this machine. Torch is imported here, by the first image that needs it: a data task
    that never shrinks one starts without.
    """
    import torch

    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        # Its general code is slower than Pillow's, and spreads one image over threads, where we spread images.
        return pillow_resize
    resize = torch.ops.aten._upsample_bilinear2d_aa.out

    def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        out = np.empty((*size, 3), dtype=np.uint8)
        own = image.flags.c_contiguous and image.flags.writeable  # torch warns of memory that is not to be written
        # Contiguous in, and channels last out: else the operator first copies, in several threads, and then writes
        # planes, which makes it nearly twice as slow.
        pixels, target = (torch.from_numpy(a).permute(2, 0, 1)[None] for a in (image if own else image.copy(), out))
        resize(pixels, list(size), False, None, None, out=target)
        return out

    return shrink


def pillow_resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The reference itself."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.array(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))
