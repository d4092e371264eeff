"""Image files that are not plain 8-bit RGB, and files that lie about their size, for tests."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
SMOOTH = cv2.resize(PIXELS[:6, :8], (160, 120), interpolation=cv2.INTER_CUBIC)
PNG_START = 33  # of what follows the signature and the header chunk


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The file of `image` as Pillow writes it."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def rgb(kind: str, **options: object) -> bytes:
    """A small smooth picture as a file."""
    return encoded(Image.fromarray(SMOOTH), kind, **options)


def chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def jpeg_of(height: int, width: int, data: bytes | None = None) -> bytes:
    """A JPEG that says that it is of this size."""
    data = rgb("JPEG") if data is None else data
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def png_of(height: int, width: int) -> bytes:
    """A PNG that says that it is of this size."""
    data = rgb("PNG")
    return data[:8] + chunk(b"IHDR", struct.pack(">II", width, height) + data[24:29]) + data[PNG_START:]


def gif_of(height: int, width: int) -> bytes:
    """A GIF whose screen is of this size."""
    data = rgb("GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def bmp_of(height: int, width: int) -> bytes:
    """A BMP that says that it is of this size."""
    data = rgb("BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def ppm_of(height: int, width: int) -> bytes:
    """A PPM that says that it is of this size."""
    return b"P6 %d %d 255\n" % (width, height) + bytes(100)


def webp_of(height: int, width: int) -> bytes:
    """A WebP that says that it is of this size: lossy."""
    data = rgb("WEBP")
    return data[:26] + struct.pack("<HH", width, height) + data[30:]


def lossless_webp_of(height: int, width: int) -> bytes:
    """The same: lossless."""
    data = rgb("WEBP", lossless=True)
    return data[:21] + struct.pack("<I", width - 1 | height - 1 << 14) + data[25:]


def extended_webp_of(height: int, width: int) -> bytes:
    """The same: of an animation."""
    data = rgb("WEBP", save_all=True, append_images=[Image.fromarray(255 - SMOOTH)])
    return data[:24] + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3] + data[30:]


def tiff_of(height: int, width: int, **options: object) -> bytes:
    """A TIFF of one strip that says that it is of this size."""
    data = bytearray(rgb("TIFF", **options))
    (start,) = struct.unpack_from("<I", data, 4)
    for at in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        (tag,) = struct.unpack_from("<H", data, at)
        if tag in (256, 257, 278):  # width, height, rows of a strip
            struct.pack_into("<HII", data, at + 2, 4, 1, width if tag == 256 else height)
    return bytes(data)


def bare_tiff(tags: list[tuple[int, int, int]], pixels: bytes) -> bytes:
    """A TIFF of `tags` (number, type 3 or 4, value) and of `pixels`, whose place stands where a value is -1."""
    start = 8 + 2 + 12 * len(tags) + 4
    file = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    for number, kind, value in tags:
        file += struct.pack("<HHII", number, kind, 1, start if value < 0 else value)
    return file + bytes(4) + pixels


def tiff12(levels: np.ndarray) -> bytes:
    """A grey TIFF of `levels` [H, W] 0..4095, W even, in 12 bits each."""
    height, width = levels.shape
    one, two = levels.astype(int).reshape(-1, 2).T
    packed = np.stack([one >> 4, (one & 15) << 4 | two >> 8, two & 255], axis=1).astype(np.uint8).tobytes()
    sizes = [(256, 4, width), (257, 4, height), (258, 3, 12), (259, 3, 1), (262, 3, 1)]
    return bare_tiff([*sizes, (273, 4, -1), (277, 3, 1), (278, 4, height), (279, 4, len(packed))], packed)


def tiled_tiff(side: int, tile: int) -> bytes:
    """A grey TIFF of `side` whose only tile, deflated, is of `tile`."""
    packed = zlib.compress(bytes(tile) * tile)
    sizes = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    return bare_tiff([*sizes, (322, 4, tile), (323, 4, tile), (324, 4, -1), (325, 4, len(packed))], packed)


SIZED: dict[str, Callable[[int, int], bytes]] = {
    "jpeg": jpeg_of,
    "progressive": lambda height, width: jpeg_of(height, width, rgb("JPEG", progressive=True)),
    "grey jpeg": lambda h, w: jpeg_of(h, w, encoded(Image.fromarray(SMOOTH).convert("L"), "JPEG")),
    "cmyk": lambda h, w: jpeg_of(h, w, encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG")),
    "png": png_of,
    "gif": gif_of,
    "bmp": bmp_of,
    "ppm": ppm_of,
    "webp": webp_of,
    "lossless webp": lossless_webp_of,
    "animated webp": extended_webp_of,
    "tiff": tiff_of,
    "lzw tiff": lambda height, width: tiff_of(height, width, compression="tiff_lzw"),
}


def with_adobe(data: bytes, transform: int) -> bytes:
    """A JPEG whose Adobe marker says how its colours are kept: 0 as they are, 1 YCbCr, 2 YCCK."""
    at = data.index(b"Adobe") + 11
    return data[:at] + bytes([transform]) + data[at + 1 :]


def cmyk_without_marker() -> bytes:
    """A CMYK JPEG whose Adobe marker is taken out."""
    data = encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG")
    at = data.index(b"Adobe") - 4
    return data[:at] + data[at + 2 + struct.unpack_from(">H", data, at + 2)[0] :]


def png16(kind: str) -> bytes:
    """A PNG of 16 bits a channel: grey or colour, the low bytes other than the high ones."""
    levels = PIXELS.astype(np.uint16) * 256 + PIXELS[::-1]
    done, data = cv2.imencode(".png", levels[:, :, 0] if kind == "grey" else levels)
    assert done
    return data.tobytes()


def animated(kind: str) -> bytes:
    """Three frames."""
    frames = [Image.fromarray(np.roll(SMOOTH, 30 * i, axis=1)) for i in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
