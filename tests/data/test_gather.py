from __future__ import annotations

import numpy as np
import pytest
import torch

from kdray.data.augment import build_augment
from kdray.data.gather import DeviceStore, GatherPlan, HostStore, pixel_store

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 12, 16, 3), dtype=np.uint8)  # not square on purpose
LISTS = [
    [],
    ["flip"],
    ["pad_crop"],
    ["pad_crop", "flip"],
    ["flip", "pad_crop"],
    [{"pad_crop": {"padding": 3, "fill": "reflect"}}, {"flip": {"p": 1}}],
    [{"flip": {"p": 1}}, {"pad_crop": {"padding": 2, "size": 10, "fill": 200}}],
    [{"pad_crop": {"padding": 0, "size": 5}}],
]


@pytest.mark.parametrize("kind", [HostStore, DeviceStore])
@pytest.mark.parametrize("entries", LISTS, ids=str)
def test_a_gather_is_the_transforms_applied_one_image_at_a_time(entries, kind) -> None:
    augment = build_augment(entries)
    plan = GatherPlan.of(augment)
    assert plan is not None
    store = kind(IMAGES, plan, torch.device("cpu"))
    at = np.random.default_rng(1).integers(0, len(IMAGES), (6, 50))
    u = augment.draw(0, 0, np.arange(at.size), 0).reshape(*at.shape, -1) if entries else np.empty((*at.shape, 0))
    crops = store.crops(at, u)
    for step in range(len(at)):
        images = store.gather(crops, step)
        assert images.is_contiguous(memory_format=torch.channels_last)
        expected = np.stack([augment.apply(IMAGES[i], u[step, k]) for k, i in enumerate(at[step])])
        assert np.array_equal(images.permute(0, 2, 3, 1), expected)


@pytest.mark.parametrize("kind", [HostStore, DeviceStore])
@pytest.mark.parametrize("entries", LISTS, ids=str)
def test_a_batch_is_the_callers_to_change(entries, kind) -> None:
    augment = build_augment(entries)
    store = kind(IMAGES, GatherPlan.of(augment), torch.device("cpu"))
    u = augment.draw(0, 0, np.arange(4), 0)[None]
    crops = store.crops(np.zeros((1, 4), dtype=np.int64), u)
    before = store.gather(crops, 0).clone()
    store.gather(crops, 0).fill_(7)
    assert store.gather(crops, 0).equal(before)


@pytest.mark.parametrize(
    "entries",
    [["pad_crop", "pad_crop"], ["flip", "flip"], [{"resize": {"size": 8}}], ["flip", {"center_crop": {"size": 8}}]],
    ids=str,
)
def test_other_transforms_have_no_plan(entries) -> None:
    assert GatherPlan.of(build_augment(entries)) is None


def test_the_cpu_has_its_own_store() -> None:
    plan = GatherPlan.of(build_augment(["flip"]))
    assert isinstance(pixel_store(IMAGES, plan, torch.device("cpu")), HostStore)
