"""Decoding gives the pixels of `PIL.Image.open(...).convert("RGB")`, or says why it cannot."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from kdray.data import decode as decode_module
from kdray.data.decode import MAX_PIXELS, BadImage, decode, decode_many, encode_png

from .odd_files import PIXELS, SMOOTH, encoded


def reference(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture
def pillow_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what was decoded by Pillow and not by OpenCV."""
    calls: list[int] = []
    plain = decode_module._pillow

    def counting(data: bytes, max_pixels: int) -> np.ndarray:
        calls.append(len(data))
        return plain(data, max_pixels)

    monkeypatch.setattr(decode_module, "_pillow", counting)
    return calls


def test_rgb_png_is_exact_and_fast(pillow_calls: list[int]) -> None:
    for level in (0, 6, 9):
        image = decode(encoded(Image.fromarray(PIXELS), "PNG", compress_level=level))
        assert np.array_equal(image, PIXELS)
    assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
    assert not pillow_calls


@pytest.mark.parametrize(
    "options", [{"quality": 95}, {"quality": 50, "subsampling": 2}, {"progressive": True}, {"subsampling": 0}]
)
def test_rgb_jpeg_is_within_a_grey_level(options: dict[str, object], pillow_calls: list[int]) -> None:
    for pixels in (PIXELS, SMOOTH):
        data = encoded(Image.fromarray(pixels), "JPEG", **options)
        difference = np.abs(decode(data).astype(int) - reference(data).astype(int))
        assert difference.max() <= 1
    assert not pillow_calls


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA"])
def test_other_png_is_exact_and_fast(mode: str, pillow_calls: list[int]) -> None:
    data = encoded(Image.fromarray(PIXELS).convert(mode), "PNG")
    image = decode(data)
    assert np.array_equal(image, reference(data)) and image.flags.c_contiguous and image.flags.writeable
    assert not pillow_calls


@pytest.mark.parametrize(("mode", "fast"), [("L", True), ("CMYK", False)])
def test_other_jpeg(mode: str, fast: bool, pillow_calls: list[int]) -> None:
    data = encoded(Image.fromarray(SMOOTH).convert(mode), "JPEG")
    assert np.array_equal(decode(data), reference(data))
    assert bool(pillow_calls) is not fast


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}])
def test_webp_is_exact_and_fast(options: dict[str, object], pillow_calls: list[int]) -> None:
    for picture in (Image.fromarray(SMOOTH), Image.fromarray(PIXELS)):
        data = encoded(picture, "WEBP", **options)
        assert np.array_equal(decode(data), reference(data))
    assert not pillow_calls


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_other_formats(kind: str) -> None:
    data = encoded(Image.fromarray(SMOOTH), kind)
    assert np.array_equal(decode(data), reference(data))


def test_transparency_is_dropped_without_a_warning() -> None:
    palette = Image.fromarray(PIXELS).convert("P")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = encoded(palette, "PNG", transparency=bytes(range(256)))
        assert np.array_equal(decode(data), reference(data))
        rgb = encoded(Image.fromarray(PIXELS), "PNG", transparency=tuple(PIXELS[0, 0].tolist()))
        assert np.array_equal(decode(rgb), PIXELS)


def test_gamma_does_not_change_pixels() -> None:
    plain = encode_png(PIXELS)
    body = b"gAMA" + struct.pack(">I", 30000)
    data = plain[:33] + struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body)) + plain[33:]
    assert np.array_equal(decode(data), reference(data)) and np.array_equal(decode(data), PIXELS)


def test_every_size() -> None:
    for height, width in ((1, 1), (1, 64), (64, 1), (3, 5)):
        assert np.array_equal(
            decode(encode_png(PIXELS[:1, :1].repeat(height, 0).repeat(width, 1))).shape, (height, width, 3)
        )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"not an image", "known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
        (b"\x89PNG\r\n\x1a\n", None),
        (b"\xff\xd8\xff\xd9", None),
        (b"\xff\xd8\xff\xe0\x00\x02\xff\xd9", None),
        (encoded(Image.fromarray(PIXELS[:, :, 0].astype(np.int32)), "TIFF"), "no known range"),
    ],
)
def test_what_is_no_image(data: bytes, words: str | None) -> None:
    with pytest.raises(BadImage, match=words) as error:
        decode(data)
    assert str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_cut_images_are_bad_wherever_they_are_cut(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(*_: object) -> None:
        raise AssertionError("a cut image is Pillow's to judge")

    monkeypatch.setattr(cv2, "imdecode", judge)
    data = encoded(Image.fromarray(PIXELS), kind)
    for keep in (1, 10, 60, len(data) // 2, len(data) - 200):
        with pytest.raises(BadImage):
            decode(data[:keep])


def decodes(data: bytes) -> bool:
    try:
        decode(data)
    except BadImage:
        return False
    return True


def test_damage_that_makes_a_marker_of_pixels_is_seen() -> None:
    """OpenCV would fill the rest of the image with grey."""
    rng = np.random.default_rng(2)
    for mode in ("RGB", "L"):
        whole = encoded(Image.fromarray(SMOOTH).convert(mode), "JPEG", quality=90)
        start = whole.index(b"\xff\xda") + 20
        for at in rng.integers(start, start + (len(whole) - start) * 3 // 4, 40).tolist():
            assert not decodes(whole[:at] + b"\xff\x33" + whole[at + 2 :])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, None], ids=str)
def test_damage_is_judged_as_by_pillow(options: dict[str, object] | None) -> None:
    rng = np.random.default_rng(1)
    whole = (
        encoded(Image.fromarray(SMOOTH), "PNG")
        if options is None
        else encoded(Image.fromarray(SMOOTH), "JPEG", **options)
    )
    taken = refused = taken_alone = 0
    for number in range(600):
        data = bytearray(whole)
        data[int(rng.integers(len(data)))] = 255 if number % 4 == 0 else int(rng.integers(256))
        try:
            expected = reference(bytes(data))
        except Exception:
            refused += 1
            taken_alone += decodes(bytes(data))
            continue
        if expected.size > 3 * MAX_PIXELS:
            continue
        assert np.abs(decode(bytes(data)).astype(int) - expected.astype(int)).max() <= 1
        taken += 1
    assert taken > 0 and refused > 10  # nearly every change breaks a checksum of a PNG
    assert taken_alone <= refused / 20  # damage in the very last pixels


def test_the_limit_of_pixels_can_be_set() -> None:
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        data = encoded(Image.fromarray(PIXELS), kind)
        assert decode(data, max_pixels=37 * 53).shape == (37, 53, 3)
        with pytest.raises(BadImage, match="53 x 37 pixels, more than 1960"):
            decode(data, max_pixels=37 * 53 - 1)


@pytest.mark.parametrize("threads", [1, 3])
def test_many_keep_their_order_and_their_errors(threads: int) -> None:
    images = [encode_png(np.full((4, 4, 3), number % 256, np.uint8)) for number in range(300)]
    images[7] = images[250] = b"broken"
    decoded = decode_many(images, threads)
    assert len(decoded) == 300
    for number, image in enumerate(decoded):
        if number in (7, 250):
            assert isinstance(image, BadImage)
        else:
            assert isinstance(image, np.ndarray) and (image == number % 256).all()
    assert decode_many([]) == []


def test_an_encoded_png_is_lossless() -> None:
    assert np.array_equal(reference(encode_png(PIXELS)), PIXELS)
    assert encode_png(PIXELS) == encode_png(PIXELS.copy())


def test_opencv_leaves_the_cores_to_us() -> None:
    assert cv2.getNumThreads() in (0, 1)
