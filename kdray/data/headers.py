"""What the first bytes of an image file say, read without decoding anything.

It decides two things: which files OpenCV decodes to the same pixels as Pillow, and which ones ask for so much memory or
time that nobody should.
"""

from __future__ import annotations

from dataclasses import dataclass

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = (0, 2, 3, 4, 6)  # grey, RGB, palette, grey with alpha, RGB with alpha
_PNG_SPECIAL = (b"tRNS", b"acTL", b"gAMA", b"iCCP", b"cICP")  # transparency, animation, gamma: decoders differ on them


@dataclass(frozen=True)
class Header:
    """`height` and `width` as declared. `plain`: OpenCV decodes it as Pillow does, or fails. `scans`: how many times a
    decoder goes over all pixels.
    """

    height: int
    width: int
    plain: bool = False
    scans: int = 1


def read_header(data: bytes) -> Header | None:
    """The header of a JPEG, PNG or WebP file; None for other formats and for what cannot be read."""
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:8] == _PNG:
        return _png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _jpeg(data: bytes) -> Header | None:
    """Plain is 8-bit grey or colour, with its end in place: without it a file is cut, and Pillow refuses it, where
    readers on libjpeg may fill what is missing with grey.
    """
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            plain = data[at + 4] == 8 and data[at + 9] in (1, 3) and data[-2:] == b"\xff\xd9"
            # Only progressive files have more than a handful. 0xFFDA stands nowhere else, but in a thumbnail.
            scans = data.count(b"\xff\xda", at) if marker in (0xC2, 0xC6, 0xCA, 0xCE) else 1
            return Header(_big(data, at + 5), _big(data, at + 7), plain, scans)
        if marker == 0xFF or 0xD0 <= marker <= 0xDA:
            return None
        at += 2 + _big(data, at + 2)
    return None


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
