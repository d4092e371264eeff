"""Encoded bytes to pixels: always 8-bit RGB, as torchvision's loader gives them.

The reference is `PIL.Image.open(...).convert("RGB")`: alpha is dropped and an EXIF orientation is not applied. OpenCV
decodes the common cases (8-bit RGB JPEG and PNG that end as they should) to the same pixels in half the time; Pillow
decodes all others and judges what is damaged. One departure: 16-bit grey is scaled to 8 bits, where Pillow would clip
it to white.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 1 << 26  # 192 MiB decoded; also below where Pillow starts to warn of decompression bombs
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # of Pillow's many, no format that runs a program
_PNG = b"\x89PNG\r\n\x1a\n"
_SPECIAL = re.compile(b"tRNS|acTL|gAMA|iCCP")
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_CHUNK = 64

# Parallelism is over images, in our own threads and processes: OpenCV's would only get in their way. What it would log
# of a damaged image is said by BadImage.
cv2.setNumThreads(0)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class BadImage(ValueError):
    """An image that does not decode; `str()` says why in a few words."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode one image to uint8 [H, W, 3] RGB, contiguous and writable.

    Raises:
        BadImage: not an image, damaged or cut off, or more than `max_pixels` pixels.
    """
    size = _plain_jpeg(data) or _plain_png(data)
    if size is None:
        return _pillow(data, max_pixels)
    _check_size(*size, max_pixels)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS)
    except cv2.error:
        image = None
    if image is None or image.shape[:2] != size:
        return _pillow(data, max_pixels)  # says what is wrong with it
    return image


def decode_many(images: Sequence[bytes], threads: int = 1, max_pixels: int = MAX_PIXELS) -> list[np.ndarray | BadImage]:
    """`decode` of each, in order, in `threads` threads (decoding frees the GIL); a failure is its `BadImage`."""

    def some(start: int) -> list[np.ndarray | BadImage]:
        return [_decode_or_error(data, max_pixels) for data in images[start : start + _CHUNK]]

    starts = range(0, len(images), _CHUNK)
    if threads <= 1 or len(starts) <= 1:
        parts = [some(start) for start in starts]
    else:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(some, starts))
    return [image for part in parts for image in part]


def encode_png(image: np.ndarray) -> bytes:
    """The PNG of uint8 [H, W, 3] RGB: lossless, and the same bytes for the same pixels."""
    done, data = cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 6])
    if not done:
        raise ValueError(f"an array of {image.dtype} {image.shape} is no image")
    return data.tobytes()


def _decode_or_error(data: bytes, max_pixels: int) -> np.ndarray | BadImage:
    try:
        return decode(data, max_pixels)
    except BadImage as exc:
        return exc


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadImage(f"{width} x {height} pixels, more than {max_pixels}")


def _plain_png(data: bytes) -> tuple[int, int] | None:
    """(height, width) of an 8-bit RGB PNG with its end in place; None for anything else.

    Gamma, transparency and animation, which decoders treat in different ways, are left to Pillow.
    """
    if data[:8] != _PNG or data[12:16] != b"IHDR" or data[24:26] != b"\x08\x02" or data[-8:-4] != b"IEND":
        return None
    if _SPECIAL.search(data, 33, max(33, data.find(b"IDAT"))):
        return None
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def _plain_jpeg(data: bytes) -> tuple[int, int] | None:
    """(height, width) of an 8-bit JPEG of three components with its end in place; None for anything else.

    Without its end a file is cut: Pillow refuses it, where readers on libjpeg may fill what is missing with grey.
    """
    if data[:3] != b"\xff\xd8\xff" or data[-2:] != b"\xff\xd9":
        return None
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            if data[at + 4] != 8 or data[at + 9] != 3:
                return None
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        if marker == 0xFF or 0xD0 <= marker <= 0xDA:
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _pillow(data: bytes, max_pixels: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.height, image.width, max_pixels)
            if image.mode.startswith("I;16"):
                grey = (np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            if image.mode in ("I", "F"):
                raise BadImage(f"pixels of mode {image.mode} (32 bits) have no known range")
            if image.mode == "P" and "transparency" in image.info:
                return np.array(image.convert("RGBA").convert("RGB"))  # the same pixels, without a warning
            return np.array(image.convert("RGB"))
    except BadImage:
        raise
    except UnidentifiedImageError as exc:
        raise BadImage(f"not an image of a known format ({', '.join(FORMATS)})" if data else "empty") from exc
    except Exception as exc:  # damaged files raise whatever Pillow's plugins meet: OSError, SyntaxError, struct.error
        if isinstance(exc, MemoryError):
            raise
        raise BadImage(" ".join(str(exc).split())[:200] or type(exc).__name__) from exc
