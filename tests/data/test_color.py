"""Colours and blur against torchvision's, and how often they happen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv

from kdray.data.augment import build_augment
from kdray.data.color import ColorJitter, GaussianBlur, RandomGrayscale, shift_hue
from kdray.errors import ConfigError

from .test_augment import photo

NOISE = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
IMAGES = [NOISE, photo(45, 61)]
ADJUST = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]


@pytest.mark.parametrize("image", IMAGES, ids=["noise", "photo"])
def test_color_jitter_is_torchvisions_in_the_drawn_order(image) -> None:
    op = ColorJitter(brightness=0.4, contrast=1.5, saturation=0.8, hue=0.2, p=1)
    rng = np.random.default_rng(1)
    for _ in range(20):
        u = rng.random(op.draws)
        low, high = np.array([0.6, 0, 0.2, -0.2]), np.array([1.4, 2.5, 1.8, 0.2])
        strengths = low + u[1:5] * (high - low)
        expected = Image.fromarray(image)
        for number in np.argsort(u[5:]):
            expected = ADJUST[number](expected, float(strengths[number]))
        assert np.array_equal(op.apply(image, u), np.asarray(expected))


@pytest.mark.parametrize("hue", [-0.5, -0.1, -0.001, 0, 0.25, 0.5])
def test_hue_turns_as_torchvisions(hue) -> None:
    image = Image.fromarray(NOISE)
    assert np.array_equal(np.asarray(shift_hue(image, hue)), np.asarray(tv.adjust_hue(image, hue)))


def test_every_order_of_the_four_changes_is_as_likely() -> None:
    u = build_augment(["color_jitter"]).draw(0, 0, np.arange(12_000), 0)
    orders = np.argsort(u[:, 5:]) @ [64, 16, 4, 1]
    _, counts = np.unique(orders, return_counts=True)
    assert len(counts) == 24 and counts.min() > 400 and counts.max() < 600


def test_a_strength_of_zero_changes_nothing() -> None:
    op = ColorJitter(brightness=0, contrast=0, saturation=0, hue=0, p=1)
    assert np.array_equal(op.apply(NOISE, np.full(op.draws, 0.3)), NOISE)


def test_grayscale_is_torchvisions() -> None:
    expected = np.asarray(tv.rgb_to_grayscale(Image.fromarray(NOISE), 3))
    assert np.array_equal(RandomGrayscale(p=1).apply(NOISE, np.zeros(1)), expected)


@pytest.mark.parametrize("image", IMAGES, ids=["noise", "photo"])
@pytest.mark.parametrize(("size", "sigma"), [(3, 0.1), (3, 2.0), (5, 1.1), (9, 1.5), (None, 0.8)])
def test_blur_is_torchvisions_within_rounding(image, size, sigma) -> None:
    op = GaussianBlur(sigma=(sigma, sigma), kernel_size=size, p=1)
    side = size or (3 if image is NOISE else 5)
    expected = tv.gaussian_blur(torch.from_numpy(image).permute(2, 0, 1), [side, side], [sigma, sigma])
    off = np.abs(op.apply(image, np.zeros(2)).astype(int) - expected.permute(1, 2, 0).numpy())
    assert off.max() <= 1 and off.mean() < 0.2


@pytest.mark.parametrize(("name", "p"), [("color_jitter", 0.8), ("random_grayscale", 0.2), ("gaussian_blur", 0.5)])
def test_they_happen_with_their_probability(name, p) -> None:
    strong = {"sigma": [1, 2]} if name == "gaussian_blur" else {}
    for share, own in ((p, {}), (0.0, {"p": 0.0}), (1.0, {"p": 1})):
        augment = build_augment([{name: strong | own}])
        draws = augment.draw(0, 0, np.arange(1000), 0)
        changed = np.mean([not np.array_equal(augment.apply(NOISE, u), NOISE) for u in draws])
        assert abs(changed - share) < 0.05


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"gaussian_blur": {"kernel_size": 4}}, "data.augment.0.gaussian_blur.kernel_size: wants an odd number"),
        ({"color_jitter": {"hue": 0.6}}, "data.augment.0.color_jitter.hue: 0.6"),
        ({"random_grayscale": {"q": 0.6}}, "data.augment.0.random_grayscale: random_grayscale has no parameter 'q'"),
    ],
)
def test_wrong_parameters_are_named(entry, said) -> None:
    with pytest.raises(ConfigError) as error:
        build_augment([entry])
    assert str(error.value).startswith(said)
