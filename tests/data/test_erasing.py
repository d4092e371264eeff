"""What is painted over, where, how often, and with what, against torchvision's RandomErasing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomErasing as Theirs

from kdray.data.augment import build_augment
from kdray.data.batch import normalise
from kdray.data.erasing import RandomErasing, noise
from kdray.errors import ConfigError

from .photos import photo_pixels

IMAGE = np.clip(photo_pixels(0, 0, (60, 40)), 1, 254)  # 0 and 255 are free to mark what is painted


def test_a_rectangle_is_painted_and_nothing_else() -> None:
    op = RandomErasing(p=1, value=[0, 255, 0])
    painted = 0
    for u in np.random.default_rng(0).random((200, op.draws)):
        box = op.box(u, IMAGE.shape[:2])
        got = op.apply(IMAGE, u)
        expected = IMAGE.copy()
        if box is not None:
            top, left, height, width = box
            for y in range(top, top + height):
                for x in range(left, left + width):
                    expected[y, x] = (0, 255, 0)
            painted += height * width > 0
        assert np.array_equal(got, expected)
    assert painted > 190


@pytest.mark.parametrize(("value", "levels"), [(0, [0, 0, 0]), (255, [255] * 3), ([7, 8, 9], [7, 8, 9])])
def test_values(value, levels) -> None:
    (op,) = build_augment([{"random_erasing": {"p": 1, "value": value}}]).ops
    u = np.full(op.draws, 0.4)
    top, left, height, width = op.box(u, IMAGE.shape[:2])
    assert (op.apply(IMAGE, u)[top : top + height, left : left + width] == levels).all()


def test_the_default_is_nothing_once_it_is_normalised() -> None:
    op = RandomErasing(p=1)
    painted = torch.from_numpy(np.array(op.value, np.uint8)).view(1, 3, 1, 1)
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert normalise(painted, *imagenet, torch.float32).abs().max() < 0.01


def test_places_and_sizes_come_as_torchvisions() -> None:
    count, size = 4000, (50, 80)
    op = RandomErasing(p=1)
    u = build_augment(["random_erasing"]).draw(0, 0, np.arange(count), 0)
    mine = [op.box(row, size) for row in u]
    torch.manual_seed(0)
    image = torch.zeros(3, *size)
    theirs = [Theirs.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(count)]
    none = sum(box is None for box in mine) / count
    assert none < 0.01 and sum(box[2:] == size for box in theirs) / count < 0.01
    ours = np.array([box for box in mine if box is not None])
    reference = np.array([box for box in theirs if box[2:] != size])
    for column in range(4):
        bound = 5 * math.sqrt(2 / count) * reference[:, column].std()
        assert abs(ours[:, column].mean() - reference[:, column].mean()) < bound
        assert abs(ours[:, column].std() / reference[:, column].std() - 1) < 0.1


def test_it_happens_with_its_probability_and_not_where_nothing_fits() -> None:
    for entry, share in ((0.5, 0.5), (0.0, 0.0), (1, 1.0), (0.25, 0.25)):
        augment = build_augment([{"random_erasing": {"p": entry, "value": 0}}])
        draws = augment.draw(0, 0, np.arange(2000), 0)
        changed = np.mean([not np.array_equal(augment.apply(IMAGE, u), IMAGE) for u in draws])
        assert abs(changed - share) < 0.04
    whole = RandomErasing(p=1, scale=(1, 1))
    assert whole.box(np.full(whole.draws, 0.5), (40, 60)) is None
    assert RandomErasing(p=1).apply(IMAGE[:1, :1], np.full(whole.draws, 0.5)).shape == (1, 1, 3)


def test_noise_is_even_and_follows_from_its_number() -> None:
    levels = noise(0.3, (101, 97))
    assert levels.shape == (101, 97, 3) and levels.dtype == np.uint8
    assert np.array_equal(levels, noise(0.3, (101, 97))) and not np.array_equal(levels, noise(0.31, (101, 97)))
    counts = np.bincount(levels.ravel(), minlength=256)
    assert counts.min() > 60 and counts.max() < 180 and abs(levels.mean() - 127.5) < 2
    # The stream is a part of what a run's pixels are: it must not change.
    assert noise(0.5, (1, 4)).ravel().tolist() == [157, 71, 222, 244, 160, 114, 170, 137, 7, 225, 57, 116]
    op = RandomErasing(p=1, value="noise")
    u = np.random.default_rng(3).random(op.draws)
    top, left, height, width = op.box(u, IMAGE.shape[:2])
    assert np.array_equal(op.apply(IMAGE, u)[top : top + height, left : left + width], noise(u[-1], (height, width)))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"value": 256}, "data.augment.0.random_erasing.value: wants grey levels 0..255, but 256"),
        ({"value": [1, 2]}, "data.augment.0.random_erasing.value: wants grey levels 0..255, but [1, 2]"),
        ({"value": "random"}, 'data.augment.0.random_erasing.value: wants grey levels 0..255, but "random"'),
        ({"value": True}, "data.augment.0.random_erasing.value: wants grey levels 0..255, but true"),
        ({"value": 0.5}, "data.augment.0.random_erasing.value: wants grey levels 0..255, but 0.5"),
        ({"scale": [0.5, 2]}, "data.augment.0.random_erasing.scale: wants parts of the area, at most 1"),
        ({"ratio": [2, 1]}, "data.augment.0.random_erasing.ratio: wants two numbers"),
        ({"p": 2}, "data.augment.0.random_erasing.p: 2"),
        ({"fill": 2}, "data.augment.0.random_erasing: random_erasing has no parameter 'fill'"),
    ],
)
def test_wrong_parameters_are_named(params, said) -> None:
    with pytest.raises(ConfigError) as error:
        build_augment([{"random_erasing": params}])
    assert str(error.value).startswith(said)
