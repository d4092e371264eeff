"""Files that are not plain 8-bit RGB come out as Pillow's `convert("RGB")` gives them; those that lie are refused."""

from __future__ import annotations

import base64
import os
import struct
import subprocess
import sys
import textwrap
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from kdray.data.decode import BadImage, decode

from .odd_files import (
    PIXELS,
    PNG_START,
    SIZED,
    SMOOTH,
    animated,
    chunk,
    cmyk_without_marker,
    encoded,
    jpeg_of,
    png16,
    rgb,
    tiff12,
    tiled_tiff,
    with_adobe,
)
from .test_decode import reference


def png_with(more: bytes) -> bytes:
    return rgb("PNG")[:PNG_START] + more + rgb("PNG")[PNG_START:]


# 32 x 24 pixels in arithmetic code: neither Pillow nor OpenCV writes it.
ARITHMETIC = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV01yid4h#wq4h;?x5fBp?C>j_R78o%jB^@X_Gd(;xGdMRuNL)@pL{~*OI8bd-S6^ahXlFi6"
    "ad~iLcwA*?WB=O#Lje&I5*QU2FB%#zV?sDWV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`Klx"
    "01*fP7yuvx0U`hb5di}c0sqVZ3IGrg1pyEd1^?Or3<CiG0ucid06zf#0B?RC#)Z+w@&&UxtnxDZcac=}(O(cf4WBe-5O57~Pv`x("
    "KeRpDSc)?W$HPFTgEeigx;;^(F#p*"
)
COLOURS = Image.fromarray(SMOOTH)
CMYK = encoded(COLOURS.convert("CMYK"), "JPEG", quality=95)
PALETTE = Image.fromarray(PIXELS).convert("P")
ODD = {
    "progressive": rgb("JPEG", progressive=True),
    "progressive grey": encoded(COLOURS.convert("L"), "JPEG", progressive=True),
    "arithmetic": ARITHMETIC,
    "restart markers": rgb("JPEG", restart_marker_blocks=3),
    "4:2:2": rgb("JPEG", subsampling=1),
    "colours as they are": rgb("JPEG", keep_rgb=True),
    "colours as they are, by the marker": with_adobe(rgb("JPEG", keep_rgb=True), 0),
    "cmyk": CMYK,
    "cmyk, progressive": encoded(COLOURS.convert("CMYK"), "JPEG", progressive=True),
    "cmyk without a marker": cmyk_without_marker(),
    "ycck": with_adobe(CMYK, 2),
    "trailing zeros": rgb("JPEG") + bytes(1000),
    "trailing garbage": rgb("JPEG") + rgb("PNG"),
    "two in one": rgb("JPEG") + encoded(Image.fromarray(PIXELS), "JPEG"),
    "fill bytes": rgb("JPEG")[:2] + b"\xff\xff" + rgb("JPEG")[2:],
    "long comment": rgb("JPEG", comment=b"\xff\xda\xff\xd9" * 900),
    "palette and transparency": encoded(PALETTE, "PNG", transparency=bytes(range(256))),
    "one transparent colour": encoded(Image.fromarray(PIXELS), "PNG", transparency=tuple(PIXELS[0, 0].tolist())),
    "alpha": encoded(Image.fromarray(np.dstack([PIXELS, PIXELS[:, :, 1]]), "RGBA"), "PNG"),
    "grey and alpha": encoded(Image.fromarray(PIXELS[:, :, :2].copy(), "LA"), "PNG"),
    "one bit": encoded(Image.fromarray(PIXELS).convert("1"), "PNG"),
    "four bits": encoded(Image.fromarray(PIXELS).quantize(16), "PNG", bits=4),
    "16-bit colours": png16("colour"),
    "gamma": png_with(chunk(b"gAMA", struct.pack(">I", 30000))),
    "packed text": png_with(chunk(b"zTXt", b"k\0\0" + zlib.compress(b"text"))),
    "a frame without an animation": png_with(chunk(b"fcTL", struct.pack(">6IHHBB", 0, 160, 120, 0, 0, 0, 1, 1, 0, 0))),
    "png and more": rgb("PNG") + bytes(50),
    "animated gif": animated("GIF"),
    "animated webp": animated("WEBP"),
    "animated png": animated("PNG"),
    "pages": animated("TIFF"),
    "transparent gif": encoded(PALETTE, "GIF", transparency=3),
    "alpha webp": encoded(Image.fromarray(np.dstack([PIXELS, PIXELS[:, :, 1]]), "RGBA"), "WEBP", lossless=True),
    "jpeg in tiff": rgb("TIFF", compression="jpeg"),
    "16-bit colours in ppm": b"P6 5 3 65535\n" + bytes(range(90)),
    "turned tiff": rgb("TIFF", tiffinfo={274: 6}),  # which Pillow turns by itself
    "grey bmp": encoded(COLOURS.convert("L"), "BMP"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_as_pillow_gives_them(name: str) -> None:
    image, expected = decode(ODD[name]), reference(ODD[name])
    assert image.shape == expected.shape and image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).max() <= (1 if ODD[name][:2] == b"\xff\xd8" else 0)


def test_what_ends_early_or_has_several_frames_is_the_first_whole_one() -> None:
    assert np.array_equal(decode(ODD["animated png"]), SMOOTH) and np.array_equal(decode(ODD["pages"]), SMOOTH)
    assert decode(ODD["two in one"]).shape == SMOOTH.shape
    assert np.array_equal(decode(ODD["trailing zeros"]), decode(rgb("JPEG")))


def test_inverted_colours_are_turned_back() -> None:
    # Adobe's programs keep CMYK inverted: read as it stands, it would be the negative.
    assert np.abs(decode(CMYK).astype(int) - SMOOTH).mean() < 4
    assert np.abs(decode(CMYK).astype(int) - (255 - SMOOTH)).mean() > 40


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_not_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = rgb(kind, exif=exif)
    image = decode(data)
    assert image.shape == SMOOTH.shape and np.abs(image.astype(int) - reference(data)).max() <= (kind == "JPEG")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM"])
def test_sixteen_bit_grey_is_its_high_byte(kind: str) -> None:
    levels = PIXELS[:, :, 0].astype(np.uint16) * 256 + PIXELS[:, :, 1]
    if kind == "PGM":
        data = b"P5 53 37 65535\n" + levels.astype(">u2").tobytes()
    else:
        data = encoded(Image.fromarray(levels), kind)
    assert np.array_equal(decode(data), np.repeat(PIXELS[:, :, :1], 3, axis=2))


def test_twelve_bit_grey_is_its_high_byte() -> None:
    levels = PIXELS[:36, :52, 0].astype(np.uint16) * 16 + PIXELS[:36, :52, 1] // 16
    assert np.array_equal(decode(tiff12(levels)), np.repeat(PIXELS[:36, :52, :1], 3, axis=2))


@pytest.mark.parametrize("name", SIZED)
def test_files_of_the_right_size_are_fine_and_of_no_size_are_not(name: str) -> None:
    height, width = SMOOTH.shape[:2]
    assert decode(SIZED[name](height, width)).shape == SMOOTH.shape if name != "ppm" else True
    if "webp" in name or name == "gif":  # cannot say zero; the first frame says more
        return
    for size in ((0, width), (height, 0), (0, 0)):
        with pytest.raises(BadImage):
            decode(SIZED[name](*size))


def test_scans_without_end_are_refused() -> None:
    plain = rgb("JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    many = plain[:-2] + plain[last:-2] * 200 + b"\xff\xd9"
    assert decode(many).shape == SMOOTH.shape
    large = jpeg_of(4000, 4000, many)
    frame = large.index(b"\xff\xc2")
    for between in (b"", b"\xff", b"\xff" * 5000, b"\xff\xd0", b"\0", b"\xff\0"):  # Pillow goes over all of these
        with pytest.raises(BadImage, match="scans of 4000 x 4000 pixels"):
            decode(large[:frame] + between + large[frame:])


def test_a_tile_larger_than_its_image_is_no_bomb() -> None:
    assert decode(tiled_tiff(64, 256)).shape == (64, 64, 3)
    with pytest.raises(BadImage, match="256 x 256 pixels, more than 65535"):
        decode(tiled_tiff(64, 256), max_pixels=(1 << 16) - 1)


def test_texts_that_unpack_without_end_are_refused() -> None:
    body = zlib.compress(bytes(3 << 20))
    for bomb in (chunk(b"zTXt", b"k\0\0" + body), chunk(b"iTXt", b"k\0\1\0\0\0" + body)):
        with pytest.raises(BadImage, match="too large"):
            decode(png_with(bomb))


@pytest.mark.parametrize("size", [1 << 20, 1 << 31, (1 << 32) - 1])
def test_opencv_is_not_given_a_chunk_that_says_it_is_larger_than_the_file(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reserve(*_: object) -> None:
        raise AssertionError("it would take that much memory, and fill it")

    monkeypatch.setattr(cv2, "imdecode", reserve)
    png = rgb("PNG")
    for start in (PNG_START, len(png) - 12):
        data = png[:start] + struct.pack(">I", size) + png[start + 4 :]
        assert np.array_equal(decode(data), SMOOTH)  # to Pillow the image is whole: its pixels end where they should


def test_a_large_image_is_refused_without_a_warning() -> None:
    script = """
        from kdray.data.decode import BadImage, decode
        from tests.data.odd_files import SIZED

        for name in ("ppm", "bmp", "gif", "tiff"):
            try:
                decode(SIZED[name](10000, 10000))
            except BadImage as error:
                assert str(error).startswith("10000 x 10000 pixels, more than"), error
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "default", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, check=True, env=environment, timeout=120, capture_output=True, text=True)
    assert "Bomb" not in done.stderr


def test_bombs_are_refused_before_memory_is_taken() -> None:
    script = """
        import resource, warnings
        from kdray.data.decode import BadImage, decode
        from tests.data.odd_files import SIZED, rgb, tiled_tiff

        warnings.simplefilter("ignore")
        for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF"):
            decode(rgb(kind))
        bombs = {name: make(16383, 16383) for name, make in SIZED.items()}
        bombs |= {f"larger {name}": make(60000, 60000) for name, make in SIZED.items() if "webp" not in name}
        bombs["animated webp"] = SIZED["animated webp"](1 << 24, 1 << 24)
        bombs["tile"] = tiled_tiff(64, 16000)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
        for name, data in bombs.items():
            try:
                decode(data)
            except BadImage as error:
                assert "pixels" in str(error), (name, error)
            else:
                raise AssertionError(name)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env=environment, timeout=120)
