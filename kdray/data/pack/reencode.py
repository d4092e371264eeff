"""One image on its way into a shard: checked by decoding it, and made smaller where that is asked for.

Images are made smaller as torchvision's `Resize(short_side, antialias=True)` does it: bilinear with a support that
grows with the factor, the longer side cut to whole pixels. So the usual evaluation transform, Resize and CenterCrop,
gives on the packed image what it gives on the original, but for the loss of the JPEG. Pillow's LANCZOS is sharper and
rings; its BOX leaves more aliasing. An EXIF orientation is ignored here as it is by the decoder, and does not survive.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from kdray.data.decode import BadImage, decode
from kdray.data.pack.options import PackOptions

LONGEST = 65_500  # pixels on a side: more, libjpeg does not write


class Prepared(NamedTuple):
    """The bytes to store; `pixels` uint8 [H, W, 3] are what they decode to where that is known, `size` is (H, W)."""

    data: bytes
    size: tuple[int, int]
    pixels: np.ndarray | None
    reencoded: bool


def prepare(data: bytes, options: PackOptions) -> Prepared:
    """Check the encoded image `data` and make of it what is stored.

    Raises:
        BadImage: it does not decode, or is too long for a JPEG.
    """
    pixels = decode(data)
    height, width = pixels.shape[:2]
    if options.short_side is None:
        return Prepared(data, (height, width), pixels, False)
    size = target_size(height, width, options.short_side)
    if size == (height, width) and (options.small == "keep" or is_jpeg(data)):
        return Prepared(data, size, pixels, False)
    return Prepared(encode(pixels, size, options.quality), size, None, True)


def target_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) after the shorter side is brought down to `short_side`; images that are small enough stay."""
    if min(height, width) <= short_side:
        return height, width
    longer = int(short_side * max(height, width) / min(height, width))
    return (short_side, longer) if height <= width else (longer, short_side)


def encode(pixels: np.ndarray, size: tuple[int, int], quality: int) -> bytes:
    """The JPEG of uint8 [H, W, 3] RGB, resized to `size` (height, width): 4:2:0, standard Huffman tables.

    Raises:
        BadImage: no JPEG is that large.
    """
    if max(size) > LONGEST:
        raise BadImage(f"as a JPEG it would have {size[1]} x {size[0]} pixels, and {LONGEST} a side are the most")
    image = Image.fromarray(pixels)
    if size != pixels.shape[:2]:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling="4:2:0", optimize=False)
    return out.getvalue()


def is_jpeg(data: bytes) -> bool:
    return data[:3] == b"\xff\xd8\xff"
