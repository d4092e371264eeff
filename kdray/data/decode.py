"""Encoded bytes to pixels: always 8-bit RGB, as torchvision's loader gives them.

The reference is `PIL.Image.open(...).convert("RGB")`: alpha is dropped and an EXIF orientation is not applied (but that
of a TIFF is, by Pillow itself). OpenCV decodes the common cases (8-bit RGB JPEG and PNG that end as they should) to the
same pixels in half the time; Pillow decodes all others and judges what is damaged. One departure: grey of more than 8
bits is scaled to 8, where Pillow would clip it to white.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from kdray.data.headers import read_header

MAX_PIXELS = 1 << 26  # 192 MiB decoded; also below where Pillow starts to warn of decompression bombs
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # of Pillow's many, no format that runs a program
_MAX_WORK = 1 << 30  # pixels over all scans of a progressive file: seconds, where a bomb of a few MB asks for an hour
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_CHUNK = 64

# Parallelism is over images, in our own threads and processes: OpenCV's would only get in their way. What it would log
# of a damaged image is said by BadImage (libpng, below it, may still write a line to stderr).
cv2.setNumThreads(0)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
# Nor does Pillow's warning of large images say more: those are refused. Once for all, as it decodes in many threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_TILE_WIDTH, _TILE_HEIGHT, _BITS = 322, 323, 258  # TIFF's tags


class BadImage(ValueError):
    """An image that does not decode; `str()` says why in a few words."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode one image to uint8 [H, W, 3] RGB, contiguous and writable.

    Raises:
        BadImage: not an image, damaged or cut off, or more than `max_pixels` pixels.
    """
    header = read_header(data)
    if header is not None:
        _check_size(header.height, header.width, max_pixels)
        _check_scans(header.scans, header.height, header.width)
        if header.plain:
            try:
                image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS)
            except cv2.error:
                image = None
            if (
                image is not None
                and image.shape == (header.height, header.width, 3)
                and (not (header.read_on and _ends_grey(image)) or _whole(data))
            ):
                return image
    return _pillow(data, max_pixels)  # decodes it, or says what is wrong with it


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


def _ends_grey(image: np.ndarray) -> bool:
    """Whether the last pixel is as bright as where a JPEG decoder ran out of data: 128, in whatever colour."""
    red, green, blue = image[-1, -1].tolist()
    return abs(299 * red + 587 * green + 114 * blue - 128_000) < 4_000


def _whole(jpeg: bytes) -> bool:
    header = read_header(jpeg, thorough=True)
    return header is not None and header.plain


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if not height * width:
        raise BadImage(f"{width} x {height} pixels")
    if height * width > max_pixels:
        raise BadImage(f"{width} x {height} pixels, more than {max_pixels}")


def _check_scans(scans: int, height: int, width: int) -> None:
    if scans * height * width > _MAX_WORK:
        raise BadImage(f"{scans} scans of {width} x {height} pixels")


def _pillow(data: bytes, max_pixels: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.height, image.width, max_pixels)
            if image.format in ("JPEG", "MPO"):  # Pillow finds the header of some of which we did not
                _check_scans(data.count(b"\xff\xda"), image.height, image.width)
            tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
            if _TILE_WIDTH in tags or _TILE_HEIGHT in tags:  # a tile is decoded whole, however small the image
                _check_size(tags.get(_TILE_HEIGHT, image.height), tags.get(_TILE_WIDTH, image.width), max_pixels)
            if image.mode.startswith("I;16"):
                return _grey(np.asarray(image), *tags.get(_BITS, ()))
            if image.mode == "I" and image.format == "PPM":  # more than 8 bits a pixel, which Pillow scales to 16
                return _grey(np.asarray(image))
            if image.mode in ("I", "F"):
                raise BadImage(f"pixels of mode {image.mode} (32 bits) have no known range")
            if image.mode == "P" and "transparency" in image.info:
                return np.array(image.convert("RGBA").convert("RGB"))  # the same pixels, without a warning
            return np.array(image.convert("RGB"))
    except BadImage:
        raise
    except Image.DecompressionBombError as exc:  # by Pillow's own limit, which is above any sensible one of ours
        raise BadImage(f"more than {max_pixels} pixels") from exc
    except UnidentifiedImageError as exc:
        raise BadImage(f"not an image of a known format ({', '.join(FORMATS)})" if data else "empty") from exc
    except Exception as exc:  # damaged files raise whatever Pillow's plugins meet: OSError, SyntaxError, struct.error
        if isinstance(exc, MemoryError):
            raise
        raise BadImage(" ".join(str(exc).split())[:200] or type(exc).__name__) from exc


def _grey(levels: np.ndarray, bits: int = 16) -> np.ndarray:
    """uint8 [H, W, 3] of `levels` [H, W] of 9 to 16 bits: the highest 8, which Pillow takes of 16-bit colours."""
    return np.repeat((levels.astype(np.uint16) >> bits - 8).astype(np.uint8)[:, :, None], 3, axis=2)
