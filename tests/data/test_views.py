"""Several views of an image: which transforms a view goes through, and what the views share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdray.data.augment import build_augment, build_transform, output_size
from kdray.data.transforms import Rot90
from kdray.errors import ConfigError

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
WIDE = np.random.default_rng(1).integers(0, 256, (8, 12, 3), dtype=np.uint8)
IDS = np.arange(300)


def views_of(entries, image=IMAGE, views=4, sample=0):
    augment = build_augment(entries, views=views)
    return [augment.apply(image, augment.draw(0, 0, IDS, view)[sample], view) for view in range(views)]


@pytest.mark.parametrize("image", [IMAGE, WIDE], ids=["square", "wide"])
def test_a_turn_is_counter_clockwise_as_numpys_and_torchs(image) -> None:
    for turns in range(4):
        got = Rot90(turns=turns).apply(image, np.empty(0))
        assert np.array_equal(got, np.rot90(image, turns))
        assert np.array_equal(got, torch.rot90(torch.from_numpy(image), turns))
        assert Rot90(turns=turns).output_size(image.shape[:2]) == got.shape[:2]


def test_view_v_is_turned_v_times() -> None:
    for view, image in enumerate(views_of(["rot90_views"], WIDE, views=6)):
        assert np.array_equal(image, np.rot90(WIDE, view % 4))


def test_rotation_views_share_the_flip_and_crop_on_their_own() -> None:
    entries = [{"flip": {"same": True}}, "rot90_views", {"pad_crop": {"padding": 2}}]
    augment = build_augment(entries, views=4)
    flipped = 0
    draws = [augment.draw(0, 0, IDS, view) for view in range(4)]
    crops = set()
    for sample in range(40):
        flip = draws[0][sample, 0] < 0.5
        flipped += flip
        for view in range(4):
            upright = IMAGE[:, ::-1] if flip else IMAGE
            padded = np.pad(np.rot90(upright, view), ((2, 2), (2, 2), (0, 0)))
            top, left = (int(5 * u) for u in draws[view][sample, 1:])
            crops.add((sample, top, left))
            expected = padded[top : top + 12, left : left + 12]
            assert np.array_equal(augment.apply(IMAGE, draws[view][sample], view), expected)
    assert 10 < flipped < 30 and len(crops) > 120


def test_same_gives_all_views_the_numbers_of_view_0() -> None:
    own, same = build_augment(["pad_crop", "flip"]), build_augment([{"pad_crop": {"same": True}}, "flip"])
    first = own.draw(3, 4, IDS, 0)
    for view in range(3):
        drawn = same.draw(3, 4, IDS, view)
        assert np.array_equal(drawn[:, :2], first[:, :2])
        assert np.array_equal(drawn[:, 2:], own.draw(3, 4, IDS, view)[:, 2:])
    assert not np.array_equal(own.draw(3, 4, IDS, 1), first)


def test_views_go_through_their_transforms_only() -> None:
    weak, strong = views_of(["flip", {"rand_augment": {"views": [1], "num_ops": 4}}], views=2, sample=7)
    plain = views_of(["flip"], views=2, sample=7)
    assert np.array_equal(weak, plain[0]) and not np.array_equal(strong, plain[1])
    only = build_augment(["flip", {"rand_augment": {"views": [1]}}])
    assert [op.name for op, _ in only.chain(0)] == ["flip"]
    assert [op.name for op, _ in only.chain(1)] == ["flip", "rand_augment"]
    assert np.array_equal(only.draw(0, 0, IDS, 0)[:, :1], build_augment(["flip"]).draw(0, 0, IDS, 0))


def test_options_that_say_nothing_change_no_number() -> None:
    plain = build_augment(["pad_crop", "flip"])
    told = build_augment([{"pad_crop": {"same": False, "views": [0, 1, 2]}}, {"flip": {"views": None}}], views=3)
    for view in range(3):
        assert np.array_equal(plain.draw(1, 2, IDS, view), told.draw(1, 2, IDS, view))


def test_output_size_is_that_of_all_views() -> None:
    where = "data.augment"
    assert output_size(["rot90_views", "pad_crop"], (32, 32), where, 4) == 32
    assert output_size(["rot90_views"], (32, 40), where, 4) is None
    assert output_size(["rot90_views", {"pad_crop": {"size": 32}}], (32, 40), where, 4) == 32
    mixed = [{"resize": {"size": 16, "views": [1]}}]
    assert output_size(mixed, (32, 32), where, 1) == 32 and output_size(mixed, (32, 32), where, 2) is None


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {"flip": {"views": [2]}},
            "data.augment.1.flip.views: there is no view 2: data.views is 2, and the",
        ),
        ({"flip": {"views": []}}, "data.augment.1.flip.views: wants numbers of views, each once"),
        ({"flip": {"views": [1, 1]}}, "data.augment.1.flip.views: wants numbers of views, each once"),
        ({"flip": {"views": 1}}, "data.augment.1.flip.views: 1"),
        ({"flip": {"views": [-1]}}, "data.augment.1.flip.views: -1"),
        ({"flip": {"same": "yes"}}, 'data.augment.1.flip.same: "yes"'),
        ({"flip": {"view": [1]}}, "data.augment.1.flip: flip has no parameter 'view' (did you mean 'views'?)"),
        ({"rot90": {"turns": 4}}, "data.augment.1.rot90.turns: 4"),
        ("rot90_view", "data.augment.1: unknown transform 'rot90_view' (did you mean 'rot90_views'?)"),
    ],
)
def test_wrong_options_are_named(entry, said) -> None:
    with pytest.raises(ConfigError) as error:
        build_augment(["pad_crop", entry], views=2)
    assert str(error.value).startswith(said)


def test_evaluation_has_one_view() -> None:
    with pytest.raises(ConfigError, match=r"data\.eval_transform\.0\.center_crop\.views: an image has one view"):
        build_transform([{"center_crop": {"size": 8, "views": [0]}}])
