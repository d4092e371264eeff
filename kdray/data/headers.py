"""What the first bytes of an image file say, read without decoding anything.

It decides two things: which files OpenCV decodes to the same pixels as Pillow, and which ones ask for so much memory or
time that nobody should.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_BASELINE, _SCAN, _RESTARTS = 0xC1, 0xDA, 0xDD
_SEGMENTS = frozenset({0xC4, 0xC8, 0xCC, *range(0xDB, 0xFF)})  # whose length follows
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = (0, 2, 3, 4, 6)  # grey, RGB, palette, grey with alpha, RGB with alpha
# Transparency, animation, gamma: decoders differ on them. Packed texts: Pillow limits what they unpack to, libpng not.
_PNG_SPECIAL = frozenset(b"tRNS acTL fcTL fdAT gAMA iCCP cICP zTXt iTXt".split())


@dataclass(frozen=True)
class Header:
    """`height` and `width` as declared. `plain`: OpenCV decodes it as Pillow does, or fails. `scans`: how many times a
    decoder goes over all pixels. `read_on`: the pixels of a JPEG were not searched for markers that do not belong
    there.
    """

    height: int
    width: int
    plain: bool = False
    scans: int = 1
    read_on: bool = False


def read_header(data: bytes, thorough: bool = False) -> Header | None:
    """The header of a JPEG, PNG or WebP file; None for other formats and for what cannot be read.

    `thorough` searches the pixels of every JPEG for markers, which takes 3 % of the time of decoding them.
    """
    try:
        return _header(data, thorough)
    except MemoryError:
        raise
    except Exception:  # a damaged file that was not thought of here is Pillow's to judge; it must not end a run
        return None


def _header(data: bytes, thorough: bool) -> Header | None:
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data, thorough)
    if data[:8] == _PNG:
        return _png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _jpeg(data: bytes, thorough: bool) -> Header | None:
    """Plain is 8-bit grey or colour, with one marker after the other up to the end. A file that is cut, or in which
    damage made a marker of pixels, Pillow refuses, where OpenCV fills what is missing with grey.
    """
    at, end, scans, channels = 2, len(data), 0, 0
    frame: tuple[int, int] | None = None
    usual, ends, read_on = True, np.empty(0, np.int64), False
    while at + 4 <= end and data[at] == 0xFF:
        marker, after = data[at + 1], at + 2 + (data[at + 2] << 8 | data[at + 3])
        if marker in _FRAMES and at + 10 <= end:
            channels = data[at + 9]
            usual = usual and frame is None and data[at + 4] == 8 and channels in (1, 3)
            frame = frame or (_big(data, at + 5), _big(data, at + 7))
            thorough = thorough or marker > _BASELINE
        elif marker == _SCAN:
            scans += 1
            if not thorough and at + 4 < end and data[at + 4] == channels:
                after, read_on = max(after, end - 2), True  # all pixels in one go: what is missing is at their end
            else:
                ends = _scan_ends(data) if scans == 1 else ends
                later = np.searchsorted(ends, after)
                after = int(ends[later]) if later < len(ends) else end
        elif marker == _RESTARTS:
            thorough = True
        elif marker == 0xFF:  # before a marker any number of these may stand
            after = at + 1
        elif marker not in _SEGMENTS:
            break
        at = after
    if frame is None:
        return None
    plain = usual and scans > 0 and at == end - 2 and data[at:] == b"\xff\xd9"
    return Header(*frame, plain, scans if plain else data.count(b"\xff\xda"), read_on)


def _scan_ends(data: bytes) -> np.ndarray:
    """Where markers stand that may end a scan: in it 0xFF00 is a byte of pixels, and 0xFFD0..0xFFD7 mark its parts."""
    file = np.frombuffer(data, np.uint8)
    at = np.flatnonzero((file[:-1] == 0xFF) & (file[1:] != 0))
    return at[(file[at + 1] & 0xF8) != 0xD0]


def _png(data: bytes) -> Header | None:
    """Plain is 8 bits a channel, and one chunk after the other up to the end. OpenCV reserves what a chunk says that it
    holds, up to 4 GiB, before it finds out that the file ends there.
    """
    if data[8:16] != b"\0\0\0\rIHDR" or len(data) < 33:
        return None
    height, width = _big(data, 20, 4), _big(data, 16, 4)
    if data[24] != 8 or data[25] not in _PNG_COLOURS:
        return Header(height, width)
    at, kind = 33, b"IHDR"
    while at + 12 <= len(data) and kind != b"IEND":
        kind = data[at + 4 : at + 8]
        if kind in _PNG_SPECIAL:
            return Header(height, width)
        at += 12 + _big(data, at, 4)
    return Header(height, width, plain=kind == b"IEND" and at == len(data))


def _webp(data: bytes) -> Header | None:
    """Plain is a still one without an extended header."""
    whole = int.from_bytes(data[4:8], "little") + 8 <= len(data)
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return Header(1 + int.from_bytes(body[7:10], "little"), 1 + int.from_bytes(body[4:7], "little"))
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return Header(1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF), whole)
    if kind == b"VP8 ":
        width, height = (int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8))
        return Header(height, width, whole)
    return None


def _big(data: bytes, at: int, size: int = 2) -> int:
    return int.from_bytes(data[at : at + size], "big")
