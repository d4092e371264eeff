"""Resizing and the transforms made of it, within one grey level of torchvision on Pillow images."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as tv
from torchvision.transforms import functional

from kdray.data import resize as resize_module
from kdray.data.augment import build_transform
from kdray.data.decode import BadImage, decode
from kdray.data.resize import pillow_resize, resize_to
from kdray.data.transforms import RandomResizedCrop

from .photos import photo, photo_pixels

# Width, height: usual, odd, small ones that grow, long ones, one side as large as the result.
SIZES = [(500, 375), (375, 500), (333, 251), (641, 479), (256, 300), (301, 256), (256, 256), (97, 61), (31, 200)]
SIZES += [(255, 257), (900, 64), (50, 1203), (1, 9), (700, 3)]


def farthest(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference of two images in grey levels."""
    assert one.shape == other.shape and one.dtype == np.uint8
    return int(np.abs(one.astype(int) - other).max())


@pytest.fixture
def on_another_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor for which torch has no vector code."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    resize_module._shrink.cache_clear()
    yield
    resize_module._shrink.cache_clear()


def test_resizing_is_pillows() -> None:
    rng = np.random.default_rng(0)
    for number in range(150):
        height, width = (int(2 ** rng.uniform(0, 9)) for _ in range(2))
        target = int(2 ** rng.uniform(0, 8)), int(2 ** rng.uniform(0, 8))
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)  # the hardest of images
        if number % 2:
            image = photo_pixels(0, number, (width, height))
        got = resize_to(image, target)
        assert got.flags.c_contiguous and farthest(got, pillow_resize(image, target)) <= 1, (image.shape, target)


@pytest.mark.parametrize("size", SIZES)
def test_evaluation_is_torchvisions(size: tuple[int, int]) -> None:
    transform = build_transform([{"resize": {"size": 256}}, {"center_crop": {"size": 224}}])
    reference = tv.Compose([tv.Resize(256), tv.CenterCrop(224)])
    for number in range(3):
        data = photo(1, number, size)
        expected = np.asarray(reference(Image.open(io.BytesIO(data)).convert("RGB")))
        assert farthest(transform.apply(decode(data), np.empty(0)), expected) <= 1


@pytest.mark.parametrize("size", [(500, 375), (251, 333), (97, 161), (1200, 60)])
@pytest.mark.parametrize("side", [32, 224])
def test_a_random_crop_is_torchvisions_of_the_same_box(size: tuple[int, int], side: int) -> None:
    op = RandomResizedCrop(size=side)
    for number in range(4):
        data = photo(2, number, size)
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        for u in np.random.default_rng(number).random((4, op.draws)):
            top, left, height, width = op.box(u, (picture.height, picture.width))
            expected = functional.resized_crop(picture, top, left, height, width, [side, side])
            assert farthest(op.apply(decode(data), u), np.asarray(expected)) <= 1


def test_another_machine_gets_pillow_itself(on_another_machine: None) -> None:
    for number, size in enumerate(SIZES):
        image = photo_pixels(3, number, size)
        for target in ((40, 60), (2, 300)):
            if size[0] > target[1] or size[1] > target[0]:
                expected = Image.fromarray(image).resize((target[1], target[0]), Image.Resampling.BILINEAR)
                assert np.array_equal(resize_to(image, target), np.asarray(expected))


def test_a_line_of_pixels_is_not_made_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    line = np.zeros((1, 65_000, 3), np.uint8)
    transform = build_transform([{"resize": {"size": 256}}, {"center_crop": {"size": 224}}])
    for image in (line, line.transpose(1, 0, 2)):
        with pytest.raises(BadImage, match=r"pixels, to become .* more than 67108864"):
            transform.apply(image, np.empty(0))
    assert transform.apply(line[:, :200], np.empty(0)).shape == (224, 224, 3)
    monkeypatch.setattr(resize_module, "MAX_PIXELS", 12)
    assert resize_to(line[:, :9], (3, 4)).shape == (3, 4, 3)
    with pytest.raises(BadImage, match="9 x 1 pixels, to become 13 x 1, more than 12"):
        resize_to(line[:, :9], (1, 13))


def test_views_of_larger_images_and_what_must_not_be_written() -> None:
    image = photo_pixels(4, 0, (301, 203))
    frozen = image.copy()
    frozen.flags.writeable = False
    for target in ((50, 40), (300, 400), (100, 400), (203, 301)):
        for of in (image, image[11:150, 7:201], image[:, ::-1], image[:, :, ::-1], frozen, frozen[3:]):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                got = resize_to(of, target)
            assert farthest(got, pillow_resize(of, target)) <= 1
    assert np.array_equal(image, frozen)


def test_it_starts_without_torch_and_stays_in_its_thread() -> None:
    script = """
        import os, sys
        import numpy as np
        from kdray.data.resize import resize_to
        from kdray.data.augment import build_augment

        image = np.zeros((375, 500, 3), np.uint8)
        resize_to(image[:90, :80], (224, 224))
        assert "torch" not in sys.modules
        resize_to(image[:2, :2], (1, 1))
        import torch

        torch.set_num_threads(4)
        before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
        for height, width in ((375, 500), (300, 500), (375, 300)):
            resize_to(image[:height, :width], (224, 224))
        after = len(os.listdir("/proc/self/task")) if before else 0
        assert before == after, (before, after)
        assert torch.get_num_threads() == 4
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env=environment, timeout=120)
