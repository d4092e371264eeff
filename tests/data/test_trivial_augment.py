"""Every operation and strength against torchvision's TrivialAugmentWide on Pillow images, and how often each comes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, TrivialAugmentWide

from kdray.data.augment import build_augment
from kdray.data.rand_augment import OPERATIONS
from kdray.data.trivial_augment import TrivialAugment
from kdray.errors import ConfigError

from .photos import photo_pixels

NAMES = list(OPERATIONS)
IMAGES = [np.random.default_rng(0).integers(0, 256, (33, 40, 3), dtype=np.uint8), photo_pixels(0, 1, (70, 50))]


def camel(name: str) -> str:
    return name.title().replace("_", "")


def theirs(image: np.ndarray, name: str, step: int, negative: bool, bins: int, fill: int) -> np.ndarray:
    """torchvision's own forward, with its random choices made for it."""
    transform = TrivialAugmentWide(bins, InterpolationMode.NEAREST, [fill] * 3)
    levels, signed = transform._augmentation_space(bins)[camel(name)]
    choices = [NAMES.index(name)] + [step] * (levels.ndim > 0) + [int(negative)] * signed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randint", lambda *_, **__: torch.tensor([choices.pop(0)]))
        made = np.asarray(transform(Image.fromarray(image)))
    assert not choices
    return made


def numbers(name: str, step: int, negative: bool, bins: int) -> np.ndarray:
    return np.array([(NAMES.index(name) + 0.5) / len(NAMES), (step + 0.5) / bins, 0.2 if negative else 0.8])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("bins", "fill"), [(31, 0), (7, 128), (12, 255)])
def test_every_operation_is_torchvisions_to_the_bit(name: str, bins: int, fill: int) -> None:
    op = TrivialAugment(num_magnitude_bins=bins, fill=fill)
    for step in range(bins):
        for negative in (False, True):
            image = IMAGES[step % 2]
            got = op.apply(image, numbers(name, step, negative, bins))
            expected = theirs(image, name, step, negative, bins, fill)
            assert got.dtype == np.uint8 and np.array_equal(got, expected), (step, negative)


def test_the_operations_are_all_of_torchvisions() -> None:
    space = TrivialAugmentWide()._augmentation_space(31)
    assert [camel(name) for name in NAMES] == list(space)
    assert [signed for _, signed in OPERATIONS.values()] == [signed for _, signed in space.values()]


def test_operations_strengths_and_signs_come_equally_often() -> None:
    u = build_augment(["trivial_augment"]).draw(0, 0, np.arange(31 * 14 * 20), 0)
    assert u.shape[1] == 3
    for column, kinds in ((0, len(NAMES)), (1, 31), (2, 2)):
        counts = np.bincount((u[:, column] * kinds).astype(int), minlength=kinds)
        assert len(counts) == kinds and np.abs(counts / len(u) * kinds - 1).max() < 0.2


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"num_magnitude_bins": 1}, "data.augment.0.trivial_augment.num_magnitude_bins: 1"),
        ({"fill": 256}, "data.augment.0.trivial_augment.fill: 256"),
        ({"magnitude": 3}, "data.augment.0.trivial_augment: trivial_augment has no parameter 'magnitude' (did you m"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_augment([{"trivial_augment": params}])
    assert str(error.value).startswith(said)
