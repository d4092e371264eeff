"""What holds for both feeds, and between them: neither the mode nor the number of workers changes what is seen."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from kdray.data.augment import build_augment
from kdray.data.decode import decode
from kdray.data.reader import read_rows

from .feeds import CIFAR, IMAGENET, MODES, ROTATED, N, evaluation, feed
from .small import PER_CLASS, identical


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize(
    ("kind", "augment", "views"),
    [
        ("small", CIFAR, 1),
        ("small", CIFAR, 2),
        ("small", ["flip", {"pad_crop": {"padding": 3, "size": 14, "fill": "reflect"}}], 1),
        ("small", [], 1),
        ("small", IMAGENET, 2),
        ("photos", IMAGENET, 1),
        ("small", ROTATED, 4),
        ("small", ["pad_crop", "flip", {"rand_augment": {"views": [1]}}], 2),
        ("small", ["color_jitter", "random_grayscale", "gaussian_blur"], 2),
        ("photos", [{"resize": {"size": 32}}, "rot90_views", {"pad_crop": {"size": 28}}], 3),
        ("photos", [{"resize": {"size": 40}}, {"center_crop": {"size": 32}}, *CIFAR], 2),
    ],
)
def test_both_modes_give_the_same_batches_bit_for_bit(request, kind, augment, views, world) -> None:
    manifest = request.getfixturevalue(kind)
    for rank in range(world):
        one, other = (feed(manifest, mode, augment, rank=rank, world=world, views=views) for mode in MODES)
        for epoch in (0, 5):
            steps = 0
            for streamed, resident in zip(one.epoch(epoch), other.epoch(epoch), strict=True):
                assert identical(streamed, resident)
                assert streamed.images.shape[:2] == (views * 20 // world, 3)
                assert streamed.images.is_contiguous(memory_format=torch.channels_last)
                assert resident.images.is_contiguous(memory_format=torch.channels_last)
                steps += 1
            assert steps == one.steps_per_epoch == manifest.num_samples // 20


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("augment", [CIFAR, ROTATED, IMAGENET], ids=["gathered", "turned", "augmented"])
def test_pixels_are_what_the_augmentation_makes_of_the_image(small, mode, augment) -> None:
    transform = build_augment(augment)
    for batch in feed(small, mode, augment, views=2).epoch(4):
        rows = read_rows(small, batch.index.numpy())
        assert np.array_equal(rows.labels, batch.labels) and np.array_equal(rows.ids, batch.ids)
        for view in (0, 1):
            draws = transform.draw(3, 4, rows.ids, view)
            for i, encoded in enumerate(rows.images):
                expected = transform.apply(decode(encoded), draws[i], view)
                assert np.array_equal(batch.images[view * 20 + i].permute(1, 2, 0), expected)


@pytest.mark.parametrize("mode", MODES)
def test_two_to_four_workers_see_the_batches_that_one_sees(small, mode) -> None:
    alone = list(feed(small, mode, batch=24).epoch(1))
    for world in (2, 3, 4):
        ranks = [list(feed(small, mode, batch=24, rank=rank, world=world).epoch(1)) for rank in range(world)]
        for number, whole in enumerate(alone):
            parts = [batches[number] for batches in ranks]
            assert torch.cat([part.images for part in parts]).equal(whole.images)
            assert torch.cat([part.index for part in parts]).equal(whole.index)


@pytest.mark.parametrize("mode", MODES)
def test_an_epoch_sees_every_row_at_most_once_and_drops_less_than_a_batch(small, mode, caplog) -> None:
    rows = np.arange(0, N, 2)[:99]
    with caplog.at_level(logging.INFO):
        fed = feed(small, mode, rows=rows)
    assert fed.dropped == 19 and fed.steps_per_epoch == 4
    assert "19 of 99 training images are left out of each epoch" in caplog.text
    seen = [torch.cat([batch.index for batch in fed.epoch(epoch)]).tolist() for epoch in (0, 1)]
    for epoch in seen:
        assert len(epoch) == len(set(epoch)) == 80 and set(epoch) <= set(rows.tolist())
    assert seen[0] != seen[1] and set(seen[0]) != set(seen[1])  # others are left out the next time


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("augment", [CIFAR, IMAGENET], ids=["gathered", "augmented"])
@pytest.mark.parametrize("start", [1, 4, 9, 10])
def test_a_resumed_epoch_is_the_tail_of_an_uninterrupted_one(small, mode, augment, start) -> None:
    whole = list(feed(small, mode, augment, rank=1, world=2).epoch(2))
    tail = list(feed(small, mode, augment, rank=1, world=2).epoch(2, start))
    assert len(tail) == 10 - start
    assert all(identical(one, other) for one, other in zip(whole[start:], tail, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_seeds_and_epochs_differ(small, mode) -> None:
    first = next(feed(small, mode).epoch(0))
    for seed, epoch in ((3, 1), (4, 0)):
        other = next(feed(small, mode, seed=seed).epoch(epoch))
        assert not first.index.equal(other.index)
    everything = feed(small, mode, batch=N)
    one, other = (next(everything.epoch(epoch)) for epoch in (0, 1))
    assert not one.images[one.index.argsort()].equal(other.images[other.index.argsort()])


def test_nothing_before_the_start_is_read(small, monkeypatch) -> None:
    read: list[int] = []

    def spy(manifest, index):
        read.extend(index.tolist())
        return read_rows(manifest, index)

    monkeypatch.setattr("kdray.data.threads.read_rows", spy)
    tail = list(feed(small, "stream").epoch(0, 7))
    assert sorted(read) == sorted(torch.cat([batch.index for batch in tail]).tolist())


@pytest.mark.parametrize("mode", MODES)
def test_class_sorted_shards_are_mixed(small, mode) -> None:
    batches = list(feed(small, mode, shuffle_window_bytes=10**9).epoch(0))
    found = np.mean([len(np.unique(batch.labels)) for batch in batches])
    shuffled = np.random.default_rng(0).permutation(N)[:200].reshape(10, 20) // PER_CLASS
    assert abs(found - np.mean([len(np.unique(row)) for row in shuffled])) < 1.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("rows", [N, 100, 17, 2])
def test_evaluation_counts_every_image_exactly_once(small, mode, world, rows) -> None:
    rows = np.arange(N)[-rows:]
    shares = []
    for rank in range(world):
        fed = evaluation(small, mode, rows=rows, rank=rank, world=world)
        assert fed.num_samples == len(rows)
        for _ in range(2):
            batches = list(fed)
            assert fed.bad_images == 0
            assert all(len(batch.labels) == 16 for batch in batches[:-1])
        index = [i for batch in batches for i in batch.index.tolist()]
        assert index == sorted(index)
        assert [label for batch in batches for label in batch.labels.tolist()] == [i // PER_CLASS for i in index]
        shares.append(index)
    assert sorted(row for share in shares for row in share) == rows.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_evaluation_pixels_are_the_same_in_both_modes(photos) -> None:
    transform = [{"resize": {"size": 40}}, {"center_crop": {"size": 32}}]
    one, other = (list(evaluation(photos, mode, transform)) for mode in MODES)
    assert len(one) == 6 and all(identical(a, b) for a, b in zip(one, other, strict=True))
    rows = read_rows(photos, one[0].index.numpy())
    expected = build_augment(transform).apply(decode(rows.images[3]), np.empty(0))
    assert np.array_equal(one[0].images[3].permute(1, 2, 0), expected)
