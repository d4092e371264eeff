"""Every operation against torchvision's on Pillow images, and which ones are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandAugment
from torchvision.transforms import functional as tv

from kdray.data.augment import build_augment
from kdray.data.rand_augment import OPERATIONS, at_step, bits_at_step
from kdray.data.rand_augment import RandAugment as Mine
from kdray.errors import ConfigError

from .test_augment import photo

IMAGES = [
    np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8),
    photo(45, 61),
    np.full((7, 9, 3), 200, np.uint8),
]
NAMES = list(OPERATIONS)
SIGNED = [name for name in NAMES if OPERATIONS[name][1]]
AFFINE = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}


def torchvision(name, image, level, fill):
    """What torchvision's functional makes of it."""
    nearest = {"interpolation": InterpolationMode.NEAREST, "fill": [fill] * 3}
    shear = math.degrees(math.atan(level))
    match name:
        case "shear_x":
            return tv.affine(image, **AFFINE | {"shear": [shear, 0.0], "center": [0, 0]}, **nearest)
        case "shear_y":
            return tv.affine(image, **AFFINE | {"shear": [0.0, shear], "center": [0, 0]}, **nearest)
        case "translate_x":
            return tv.affine(image, **AFFINE | {"translate": [int(level), 0]}, **nearest)
        case "translate_y":
            return tv.affine(image, **AFFINE | {"translate": [0, int(level)]}, **nearest)
        case "rotate":
            return tv.rotate(image, level, **nearest)
        case "posterize":
            return tv.posterize(image, int(level))
        case "solarize":
            return tv.solarize(image, level)
        case "auto_contrast":
            return tv.autocontrast(image)
        case "equalize":
            return tv.equalize(image)
        case "identity":
            return image
    adjust = {"color": tv.adjust_saturation}.get(name) or getattr(tv, f"adjust_{name}")
    return adjust(image, 1.0 + level)


def their_level(name, image, magnitude, bins):
    space = RandAugment()._augmentation_space(bins, image.shape[:2])
    levels, signed = space[name.title().replace("_", "")]
    assert signed == (name in SIGNED)
    return float(levels[magnitude]) if levels.ndim else 0.0


def numbers(name, sign=0.9):
    return np.array([(NAMES.index(name) + 0.5) / len(NAMES), sign])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("image", IMAGES, ids=["noise", "photo", "flat"])
def test_every_operation_is_torchvisions(name, image) -> None:
    for magnitude, bins, fill in ((0, 31, 0), (9, 31, 0), (30, 31, 128), (10, 11, 255), (3, 7, 0)):
        op = Mine(num_ops=1, magnitude=magnitude, num_magnitude_bins=bins, fill=fill)
        level = their_level(name, image, magnitude, bins)
        assert op.level(name, image.shape[1], image.shape[0]) == level
        for sign, factor in ((0.9, 1), (0.1, -1 if name in SIGNED else 1)):
            expected = torchvision(name, Image.fromarray(image), factor * level, fill)
            got = op.apply(image, numbers(name, sign))
            assert got.dtype == np.uint8 and np.array_equal(got, np.asarray(expected)), (magnitude, bins, sign)


def test_the_operations_are_all_of_torchvisions() -> None:
    theirs = RandAugment()._augmentation_space(31, (32, 32))
    assert [name.title().replace("_", "") for name in NAMES] == list(theirs)


def test_operations_come_one_after_the_other_and_all_as_often() -> None:
    image = IMAGES[1]
    u = np.concatenate([numbers("rotate"), numbers("brightness", 0.2), numbers("equalize")])
    one_by_one = image
    for part in u.reshape(3, 2):
        one_by_one = Mine(num_ops=1).apply(one_by_one, part)
    assert np.array_equal(Mine(num_ops=3).apply(image, u), one_by_one)
    drawn = build_augment([{"rand_augment": {"num_ops": 3}}]).draw(0, 0, np.arange(5000), 0)
    assert drawn.shape == (5000, 6)
    counts = np.bincount((drawn[:, ::2] * len(NAMES)).astype(int).ravel(), minlength=len(NAMES))
    assert abs(counts / 15_000 - 1 / len(NAMES)).max() < 0.01


def test_a_view_that_is_no_copy_of_memory_is_fine() -> None:
    image = IMAGES[1][2:30, 5:40]
    for name in NAMES:
        assert np.array_equal(Mine().apply(image, np.tile(numbers(name), 2)).shape, image.shape)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"magnitude": 31}, "data.augment.0.rand_augment.magnitude: magnitude is at most 30"),
        ({"magnitude": 5, "num_magnitude_bins": 5}, "data.augment.0.rand_augment.magnitude: magnitude is at most 4"),
        ({"num_ops": 0}, "data.augment.0.rand_augment.num_ops: 0"),
        ({"magnitudes": 3}, "data.augment.0.rand_augment: rand_augment has no parameter 'magnitudes' (did you mean"),
    ],
)
def test_wrong_parameters_are_named(params, said) -> None:
    with pytest.raises(ConfigError) as error:
        build_augment([{"rand_augment": params}])
    assert str(error.value).startswith(said)


def test_levels_are_torchs_to_the_bit() -> None:
    for bins in (*range(2, 40), 100, 1000):
        for start, strongest in ((0.0, 0.3), (0.0, 150.0 / 331.0 * 224), (0.0, 135.0), (255.0, 0.0)):
            levels = torch.linspace(start, strongest, bins).tolist()
            assert [at_step(strongest, step, bins, start) for step in range(bins)] == levels
        for fewer in (4, 6):
            bits = 8 - (torch.arange(bins) / ((bins - 1) / fewer)).round().int()
            assert [bits_at_step(fewer, step, bins) for step in range(bins)] == bits.tolist()


def test_a_whole_draw_is_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    for magnitude in (3, 9, 14):
        mine, theirs = Mine(magnitude=magnitude), RandAugment(2, magnitude, fill=[0] * 3)
        for _ in range(30):
            names, signs = rng.choice(NAMES, 2), rng.random(2)
            choices: list[int] = []
            for name, sign in zip(names, signs, strict=True):
                choices += [NAMES.index(name)] + [int(sign < 0.5)] * (name in SIGNED)
            monkeypatch.setattr(torch, "randint", lambda *_, left=choices, **__: torch.tensor([left.pop(0)]))
            u = np.concatenate([numbers(name, sign) for name, sign in zip(names, signs, strict=True)])
            assert np.array_equal(mine.apply(IMAGES[1], u), np.asarray(theirs(Image.fromarray(IMAGES[1])))), names
