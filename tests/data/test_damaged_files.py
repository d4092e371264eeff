"""Whatever stands in a file, decoding gives an image or says why not; memory is given back."""

from __future__ import annotations

import gc
import resource
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kdray.data import headers
from kdray.data.decode import BadImage, decode

from .odd_files import SMOOTH, animated, encoded, png16, rgb

FILES = {
    "jpeg": rgb("JPEG"),
    "progressive": rgb("JPEG", progressive=True),
    "cmyk": encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG"),
    "png": rgb("PNG"),
    "palette": encoded(Image.fromarray(SMOOTH).convert("P"), "PNG", transparency=bytes(range(256))),
    "16 bits": png16("grey"),
    "webp": rgb("WEBP"),
    "lossless": rgb("WEBP", lossless=True),
    "animated": animated("WEBP"),
    "gif": animated("GIF"),
    "bmp": rgb("BMP"),
    "tiff": rgb("TIFF", compression="tiff_lzw"),
    "ppm": rgb("PPM"),
}
LIMIT = 1 << 20


def decodes(data: bytes) -> bool:
    """Whether it does; anything but an image or a BadImage with a reason in one line is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = decode(data, LIMIT)
        except BadImage as error:
            assert str(error) and "\n" not in str(error) and len(str(error)) < 300
            return False
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert 0 < image.shape[0] * image.shape[1] <= LIMIT and image.flags.c_contiguous and image.flags.writeable
    return True


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` with a few bytes changed, left out or put in, and maybe cut."""
    file = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(file) if rng.random() < 0.5 else min(len(file), 80)))  # half of them in the header
        match int(rng.integers(4)):
            case 0:
                file[at] ^= 1 << int(rng.integers(8))
            case 1:
                file[at] = (0, 127, 128, 255)[int(rng.integers(4))]
            case 2:
                del file[at : at + int(rng.integers(1, 30))]
                file = file or bytearray(b"\0")
            case 3:
                file[at:at] = rng.bytes(int(rng.integers(1, 20)))
    return bytes(file[: int(rng.integers(len(file)))] if rng.random() < 0.1 else file)


@pytest.mark.parametrize("name", FILES)
def test_damage_gives_an_image_or_a_reason(name: str) -> None:
    rng = np.random.default_rng(len(name))
    assert decodes(FILES[name])
    refused = 0
    for _ in range(150):
        refused += not decodes(damaged(FILES[name], rng))
    assert refused > 10


@given(st.sampled_from(sorted(FILES)), st.binary(max_size=60), st.integers(0, 200))
def test_any_bytes_after_any_beginning(name: str, rest: bytes, keep: int) -> None:
    decodes(FILES[name][:keep] + rest)


def test_a_file_cut_anywhere_is_refused() -> None:
    for name, data in FILES.items():
        if name in ("gif", "animated"):
            continue  # the first frame may be whole
        for keep in np.linspace(0, len(data) - 100, 25).astype(int).tolist():
            assert not decodes(data[:keep]), (name, keep)


@pytest.mark.parametrize("name", FILES)
def test_a_header_is_read_wherever_the_file_is_cut(name: str) -> None:
    data = FILES[name]
    for keep in range(min(len(data), 2000)):
        for thorough in (False, True):
            headers._header(data[:keep], thorough)  # not read_header, which would hide what this raises


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_every_cut_of_a_small_file_gives_an_image_or_a_reason(kind: str) -> None:
    data = encoded(Image.fromarray(SMOOTH[:6, :8]), kind)
    assert decodes(data) and not decodes(data[: len(data) // 2])
    for keep in range(len(data)):
        decodes(data[:keep])


def test_a_jpeg_that_ends_where_its_pixels_begin_is_refused() -> None:
    jpeg = FILES["jpeg"]
    assert not decodes(b"\xff\xd8\xff\xda\x00\x08") and not decodes(jpeg[: jpeg.index(b"\xff\xda") + 4])


def test_what_reading_a_header_did_not_expect_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError("index out of range")

    monkeypatch.setattr(headers, "_jpeg", fail)
    assert decodes(FILES["jpeg"]) and not decodes(FILES["jpeg"][:-300])

    def exhaust(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(headers, "_jpeg", exhaust)
    with pytest.raises(MemoryError):
        decode(FILES["jpeg"])


def test_memory_does_not_grow_with_damaged_files() -> None:
    rng = np.random.default_rng(0)
    files = [damaged(data, rng) for data in FILES.values() for _ in range(20)]

    def resident() -> int:
        gc.collect()
        with open("/proc/self/statm") as told:
            return int(told.read().split()[1]) * resource.getpagesize()

    for data in files:
        decodes(data)
    before = resident()
    for _ in range(4):
        for data in files:
            decodes(data)
    # One decoded image is 57 KiB: losing one in ten of these 1040 would be 6 MB.
    assert resident() - before < 6 * 2**20
