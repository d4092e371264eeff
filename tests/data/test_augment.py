from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv
from torchvision.transforms import transforms as tv_transforms

from kdray.data.augment import build_augment, build_transform, output_size
from kdray.data.ops import OPS, Op
from kdray.data.transforms import CenterCrop, Flip, PadCrop, RandomResizedCrop, Resize
from kdray.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def photo(height, width):
    """A smooth image: resizing noise says nothing."""
    y, x = np.mgrid[:height, :width]
    channels = [127 + 120 * np.sin(x / 17 + k) * np.cos(y / 23 - k) for k in range(3)]
    return np.stack(channels, axis=2).astype(np.uint8)


@pytest.mark.parametrize("fill", [0, 128, "reflect"])
@pytest.mark.parametrize(("padding", "size"), [(4, None), (2, 28), (0, 16), (8, 40)])
def test_pad_crop_by_loops(fill, padding, size) -> None:
    op = PadCrop(padding=padding, size=size, fill=fill)
    side = size or 32
    room = 32 + 2 * padding - side

    def pixel(y, x):
        if fill == "reflect":
            y, x = (abs(v) if v < 32 else 62 - v for v in (y, x))
        elif not (0 <= y < 32 and 0 <= x < 32):
            return [fill] * 3
        return IMAGE[y, x].tolist()

    for u in ([0.0, 0.0], [0.999, 0.999], [0.5, 0.2]):
        top, left = (int(v * (room + 1)) - padding for v in u)
        expected = [[pixel(top + y, left + x) for x in range(side)] for y in range(side)]
        assert np.array_equal(op.apply(IMAGE, np.array(u)), expected)


def test_pad_crop_takes_every_place_equally_often() -> None:
    op = PadCrop(padding=4)
    u = build_augment(["pad_crop"]).draw(0, 0, np.arange(8100), 0)
    top, left = op.corners(u, (32, 32))
    counts = np.histogram2d(top, left, bins=9, range=[[0, 9], [0, 9]])[0]
    assert counts.sum() == 8100 and counts.min() > 50 and counts.max() < 160


def test_flip_mirrors_with_its_probability() -> None:
    assert np.array_equal(Flip().apply(IMAGE, np.array([0.49])), IMAGE[:, ::-1])
    assert np.array_equal(Flip().apply(IMAGE, np.array([0.5])), IMAGE)
    u = build_augment(["flip"]).draw(0, 0, np.arange(10_000), 0)
    assert abs(Flip(p=0.3).flips(u).mean() - 0.3) < 0.02
    assert not Flip(p=0).flips(u).any() and Flip(p=1).flips(u).all()


def test_random_resized_crop_draws_as_torchvision_does() -> None:
    op = RandomResizedCrop(size=8)
    u = build_augment([{"random_resized_crop": {"size": 8}}]).draw(0, 0, np.arange(4000), 0)
    mine = np.array([op.box(row, (300, 400)) for row in u])
    torch.manual_seed(0)
    image = torch.empty(3, 300, 400)
    crop = tv_transforms.RandomResizedCrop
    theirs = np.array([crop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    for boxes in (mine, theirs):
        top, left, height, width = boxes.T
        assert (top >= 0).all() and (left >= 0).all() and (height > 0).all() and (width > 0).all()
        assert (top + height <= 300).all() and (left + width <= 400).all()
    for column in range(4):
        bound = 5 * math.sqrt(2 / 4000) * theirs[:, column].std()
        assert abs(mine[:, column].mean() - theirs[:, column].mean()) < bound
        assert abs(mine[:, column].std() / theirs[:, column].std() - 1) < 0.1
    share = mine[:, 2] * mine[:, 3] / (300 * 400)
    assert share.min() > 0.075 and share.max() <= 1.0


@pytest.mark.parametrize(
    ("size", "box"), [((100, 10), (43, 0, 13, 10)), ((10, 100), (0, 43, 10, 13)), ((10, 12), (0, 0, 10, 12))]
)
def test_random_resized_crop_falls_back_to_the_middle(size, box) -> None:
    # Areas above the image's own never fit: all ten tries fail.
    op = RandomResizedCrop(size=8, scale=(1.5, 1.6))
    assert op.box(np.full(op.draws, 0.5), size) == box


@pytest.mark.parametrize(("size", "ratio"), [((1000, 1), (3, 4)), ((1, 1000), (1 / 4, 1 / 3))])
def test_random_resized_crop_leaves_a_pixel_of_a_line(size, ratio) -> None:
    op = RandomResizedCrop(size=8, scale=(0.5, 1), ratio=ratio)
    assert op.box(np.full(op.draws, 0.5), size)[2:] == (1, 1)
    assert op.apply(np.full((*size, 3), 7, np.uint8), np.full(op.draws, 0.5)).tolist() == [[[7] * 3] * 8] * 8


def test_random_resized_crop_crops_before_it_resizes() -> None:
    image = photo(300, 400)
    op = RandomResizedCrop(size=24)
    u = np.random.default_rng(1).random(op.draws)
    top, left, height, width = op.box(u, (300, 400))
    blind = np.zeros_like(image)
    blind[top : top + height, left : left + width] = image[top : top + height, left : left + width]
    got = op.apply(image, u)
    assert got.shape == (24, 24, 3) and np.array_equal(got, op.apply(blind, u))
    expected = tv.resized_crop(torch.from_numpy(image).permute(2, 0, 1), top, left, height, width, [24, 24])
    assert np.abs(got.astype(int) - expected.permute(1, 2, 0).numpy()).mean() < 3


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (33, 33), (100, 7), (7, 100)])
@pytest.mark.parametrize("side", [5, 33, 64])
def test_resize_and_center_crop_have_torchvision_geometry(size, side) -> None:
    image = photo(*size)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    resized = Resize(size=side).apply(image, np.empty(0))
    assert resized.shape[:2] == tuple(tv.resize(tensor, [side]).shape[1:])
    cropped = CenterCrop(size=side).apply(resized, np.empty(0))
    expected = tv.center_crop(torch.from_numpy(np.ascontiguousarray(resized)).permute(2, 0, 1), [side, side])
    assert np.array_equal(cropped, expected.permute(1, 2, 0).numpy())


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(Resize(size=16).apply(stripes, np.empty(0)).astype(int) - 127.5).max() < 12


LISTS = [
    ["pad_crop", "flip"],
    [{"pad_crop": {"size": 20, "padding": 1}}],
    [{"random_resized_crop": {"size": 24}}, "flip"],
    [{"resize": {"size": 20}}, {"center_crop": {"size": 16}}],
    [{"resize": {"size": 20}}],
    [],
]


@pytest.mark.parametrize("entries", LISTS, ids=str)
@pytest.mark.parametrize("size", [(32, 32), (32, 48), (70, 40)])
def test_output_size_is_what_comes_out(entries, size) -> None:
    augment = build_augment(entries)
    shape = augment.apply(photo(*size), augment.draw(0, 0, np.arange(1), 0)[0]).shape
    side = output_size(entries, size)
    assert shape == (side, side, 3) if side else shape[0] != shape[1]
    unknown = output_size(entries, None)
    assert unknown in (None, side)


def test_the_result_is_a_function_of_seed_epoch_id_and_view() -> None:
    augment = build_augment([{"random_resized_crop": {"size": 16}}, "flip"])

    def result(seed, epoch, sample, view):
        ids = np.array([5, sample, 9])
        return augment.apply(IMAGE, augment.draw(seed, epoch, ids, view)[1])

    base = result(0, 0, 3, 0)
    assert np.array_equal(base, result(0, 0, 3, 0))
    for other in ((1, 0, 3, 0), (0, 1, 3, 0), (0, 0, 4, 0), (0, 0, 3, 1)):
        assert not np.array_equal(base, result(*other))


def test_a_transform_keeps_its_draws_when_others_join() -> None:
    ids = np.arange(50)
    alone = build_augment(["flip"]).draw(0, 0, ids, 0)
    both = build_augment(["pad_crop", "flip"])
    assert np.array_equal(both.draw(0, 0, ids, 0)[:, both.columns()[1]], alone)
    twice = build_augment(["flip", "flip"]).draw(0, 0, ids, 0)
    assert np.array_equal(twice[:, :1], alone) and not np.array_equal(twice[:, 1:], alone)


def test_the_docs_tell_every_transform_and_parameter() -> None:
    page = (Path(__file__).parents[2] / "docs" / "augment.md").read_text()
    section = page.partition("## Transforms and views")[2].partition("\n## ")[0]
    for name, op in OPS.items():
        (row,) = (line for line in section.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1])
        for key in op.parameters():
            assert f"`{key}" in (section if key in Op.model_fields else row), (name, key)


def test_transforms_leave_their_input_alone() -> None:
    image = photo(40, 50)
    before = image.copy()
    for name, op in OPS.items():
        config = {"size": 30} if "size" in op.model_fields else {}
        augment = build_augment([{name: config}])
        result = augment.apply(image, augment.draw(0, 0, np.arange(1), 0)[0])
        assert result.dtype == np.uint8 and result.ndim == 3 and np.array_equal(image, before), name


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("padcrop", "data.augment.1: unknown transform 'padcrop' (did you mean 'pad_crop'?)"),
        (
            {"pad_crop": {"pading": 4}},
            "data.augment.1.pad_crop: pad_crop has no parameter 'pading' (did you mean 'padd",
        ),
        ({"pad_crop": {"padding": -1}}, "data.augment.1.pad_crop.padding: -1"),
        ({"pad_crop": {"fill": "mirror"}}, 'data.augment.1.pad_crop.fill: "mirror"'),
        ({"pad_crop": 4}, "data.augment.1.pad_crop: 4 is not a map of parameters. Parameters: padding, size, fill"),
        ({"resize": None}, "data.augment.1.resize.size: is missing. Write {resize: {size: 224}}"),
        ({"resize": {"size": "224"}}, 'data.augment.1.resize.size: "224"'),
        (
            {"random_resized_crop": {"size": 8, "scale": [1, 0.5]}},
            "data.augment.1.random_resized_crop.scale: wants two",
        ),
        ({"flip": {}, "resize": {}}, 'data.augment.1: {"flip"'),
        (7, "data.augment.1: 7 is no transform"),
    ],
)
def test_wrong_entries_are_named(entry, said) -> None:
    with pytest.raises(ConfigError) as error:
        build_augment(["flip", entry])
    assert str(error.value).startswith(said)


def test_evaluation_takes_no_random_transform() -> None:
    assert not build_transform([{"resize": {"size": 8}}]).random
    with pytest.raises(ConfigError, match=r"data\.eval_transform\.1: flip is random"):
        build_transform([{"resize": {"size": 8}}, "flip"])


def test_images_too_small_are_an_error() -> None:
    with pytest.raises(DataError, match="32 x 32 is smaller than the crop of 40"):
        CenterCrop(size=40).apply(IMAGE, np.empty(0))
    with pytest.raises(DataError, match="padded by 1 is smaller than the crop of 40"):
        PadCrop(padding=1, size=40).apply(IMAGE, np.zeros(2))
