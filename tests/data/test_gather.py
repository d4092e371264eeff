from __future__ import annotations

import numpy as np
import pytest
import torch

from kdray.data.augment import build_augment
from kdray.data.gather import DeviceStore, GatherPlan, HostStore, pixel_store

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 12, 16, 3), dtype=np.uint8)  # not square on purpose
TURNED = [
    [{"flip": {"same": True}}, "rot90_views", "pad_crop"],
    ["flip", "rot90_views", {"pad_crop": {"same": True, "padding": 2, "size": 11}}],
    ["rot90_views", "flip", {"rot90": {"turns": 3, "views": [0, 2]}}, "flip", {"pad_crop": {"fill": "reflect"}}],
    ["pad_crop", "rot90_views", "flip"],
    [{"pad_crop": {"padding": 1, "size": 9}}, "flip", "rot90_views", "flip"],
    [{"flip": {"p": 1, "views": [3]}}, {"rot90": {"turns": 2}}, {"pad_crop": {"views": [1]}}, "rot90_views"],
]
LISTS = [
    [],
    ["flip"],
    ["pad_crop"],
    ["pad_crop", "flip"],
    ["flip", "pad_crop"],
    ["flip", "pad_crop", "flip"],
    [{"pad_crop": {"padding": 3, "fill": "reflect"}}, {"flip": {"p": 1}}],
    [{"flip": {"p": 1}}, {"pad_crop": {"padding": 2, "size": 10, "fill": 200}}],
    [{"pad_crop": {"padding": 0, "size": 5}}],
    [{"rot90": {"turns": 2}}, "flip", "pad_crop", {"rot90": {"turns": 2}}],
    ["flip", {"rot90": {"turns": 3}}, {"pad_crop": {"padding": 4, "size": 14}}],
]
CASES = [(16, 1, entries) for entries in LISTS] + [(12, 5, entries) for entries in TURNED]
CASES += [(16, 4, ["flip", "rot90_views", {"pad_crop": {"padding": 4, "size": 14}}]), (16, 2, ["pad_crop"])]


def drawn(augment, at, views):
    shape = (*at.shape, -1) if augment.random else (*at.shape, 0)
    return [augment.draw(0, 0, np.arange(at.size), view).reshape(shape) for view in range(views)]


@pytest.mark.parametrize("kind", [HostStore, DeviceStore])
@pytest.mark.parametrize(("side", "views", "entries"), CASES, ids=str)
def test_a_gather_is_the_transforms_applied_one_image_at_a_time(side, views, entries, kind) -> None:
    images = IMAGES[:, :, :side]
    augment = build_augment(entries, views=views)
    plan = GatherPlan.of(augment, views)
    assert plan is not None
    store = kind(plan.padded(images), plan, torch.device("cpu"))
    at = np.random.default_rng(1).integers(0, len(images), (5, 40))
    draws = drawn(augment, at, views)
    crops = store.crops(at, draws)
    for step in range(len(at)):
        got = store.gather(crops, step)
        assert got.is_contiguous(memory_format=torch.channels_last)
        rows = [(view, k, images[i]) for view in range(views) for k, i in enumerate(at[step])]
        expected = [augment.apply(image, draws[view][step, k], view) for view, k, image in rows]
        assert np.array_equal(got.permute(0, 2, 3, 1), np.stack(expected))


@pytest.mark.parametrize("kind", [HostStore, DeviceStore])
@pytest.mark.parametrize("entries", LISTS, ids=str)
def test_a_batch_is_the_callers_to_change(entries, kind) -> None:
    augment = build_augment(entries)
    plan = GatherPlan.of(augment)
    store = kind(plan.padded(IMAGES), plan, torch.device("cpu"))
    at = np.zeros((1, 4), dtype=np.int64)
    crops = store.crops(at, drawn(augment, at, 1))
    before = store.gather(crops, 0).clone()
    store.gather(crops, 0).fill_(7)
    assert store.gather(crops, 0).equal(before)


@pytest.mark.parametrize(
    ("entries", "views"),
    [
        (["pad_crop", "pad_crop"], 1),
        ([{"resize": {"size": 8}}], 1),
        (["flip", {"center_crop": {"size": 8}}], 1),
        (["flip", {"rand_augment": {"views": [1]}}], 2),
        ([{"pad_crop": {"views": [0]}}, {"pad_crop": {"padding": 2, "views": [1]}}], 2),
    ],
    ids=str,
)
def test_other_transforms_have_no_plan(entries, views) -> None:
    assert GatherPlan.of(build_augment(entries), views) is None


@pytest.mark.parametrize(("entries", "views"), [(["rot90_views", "pad_crop"], 4), (["rot90", "pad_crop"], 1)], ids=str)
def test_quarter_turns_are_gathered_where_they_are_square(entries, views) -> None:
    plan = GatherPlan.of(build_augment(entries), views)
    assert plan is not None and plan.size((12, 12)) == (12, 12) and plan.size((12, 16)) is None
    with pytest.raises(ValueError, match="cannot be gathered"):
        pixel_store(plan.padded(IMAGES), plan, torch.device("cpu"))


def test_the_cpu_has_its_own_store() -> None:
    plan = GatherPlan.of(build_augment(["flip"]))
    assert isinstance(pixel_store(plan.padded(IMAGES), plan, torch.device("cpu")), HostStore)
