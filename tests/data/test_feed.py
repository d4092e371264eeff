"""What holds for both feeds, and between them: neither the mode nor the number of workers changes what is seen."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdray.data.augment import build_augment
from kdray.data.batch import normalise
from kdray.data.decode import decode
from kdray.data.feed import eval_feed, train_feed, will_stream
from kdray.data.manifest import Manifest
from kdray.data.reader import read_rows
from kdray.errors import ConfigError, DataError, KdrayError
from kdray.experiment import LabelNoise

from .small import PER_CLASS, data, identical, photographs, squares

CIFAR = ["pad_crop", "flip"]
ROTATED = [{"flip": {"same": True}}, "rot90_views", "pad_crop"]
IMAGENET = [{"random_resized_crop": {"size": 24}}, "flip"]
MODES = ("stream", "resident")
N = 203


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Manifest:
    return squares(tmp_path_factory.mktemp("squares") / "set", N)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Manifest:
    return photographs(tmp_path_factory.mktemp("photographs") / "set", 90)


def feed(manifest, mode, augment=CIFAR, *, rows=None, batch=20, seed=3, rank=0, world=1, labels=None, **settings):
    rows = np.arange(manifest.num_samples) if rows is None else rows
    settings = {"shuffle_window_bytes": 40_000, **settings}
    options = {"batch": batch, "seed": seed, "rank": rank, "world": world, "labels": labels}
    return train_feed(data(manifest, mode=mode, augment=augment, **settings), manifest, rows, **options)


def evaluation(manifest, mode, transform=(), *, rows=None, batch=16, rank=0, world=1):
    rows = np.arange(manifest.num_samples) if rows is None else rows
    section = data(manifest, mode=mode, eval_transform=list(transform))
    return eval_feed(section, manifest, rows, batch=batch, rank=rank, world=world)


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
def test_two_and_four_workers_see_the_batches_that_one_sees(small, mode) -> None:
    alone = list(feed(small, mode).epoch(1))
    for world in (2, 4):
        ranks = [list(feed(small, mode, rank=rank, world=world).epoch(1)) for rank in range(world)]
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


# -- images that do not decode -----------------------------------------------------------------------------------------

BAD = (7, 40, 41, 202)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory) -> Manifest:
    return squares(tmp_path_factory.mktemp("spoiled") / "set", N, bad=BAD)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("augment", [CIFAR, IMAGENET], ids=["gathered", "augmented"])
def test_a_bad_image_gives_its_slot_to_the_first_good_one_of_its_batch(small, spoiled, mode, augment) -> None:
    options = {"views": 2, "rank": 1, "world": 2, "shuffle_window_bytes": 10**9}
    clean = feed(small, mode, augment, **options)
    fed = feed(spoiled, mode, augment, max_bad_fraction=0.5, **options)
    met = set()
    for epoch in (0, 1, 2):
        for right, batch in zip(clean.epoch(epoch), fed.epoch(epoch), strict=True):
            rows = right.index.tolist()
            good = next(i for i, row in enumerate(rows) if row not in BAD)
            source = [good if row in BAD else i for i, row in enumerate(rows)]
            met |= set(rows) & set(BAD)
            for name in ("index", "labels", "ids"):
                assert getattr(batch, name).equal(getattr(right, name)[source])
            assert batch.images.equal(right.images[source + [10 + i for i in source]])
    assert met and fed.bad_images == (len(met) if mode == "stream" else len(BAD))


@pytest.mark.parametrize("mode", MODES)
def test_too_many_bad_images_stop_the_run_and_are_named(spoiled, mode) -> None:
    with pytest.raises(DataError) as error:
        list(feed(spoiled, mode, max_bad_fraction=2.5 / N).epoch(0))
    assert error.value.where == spoiled.uri
    assert f"of {N} images do not decode: " in str(error.value) and "data.max_bad_fraction" in str(error.value)
    named = [row for row in BAD if spoiled.position(row) in str(error.value)]
    assert len(named) >= 3


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_without_a_good_image_is_an_error(tmp_path, mode) -> None:
    manifest = squares(tmp_path / "set", 4, bad=range(3))
    with pytest.raises(DataError, match=r"no image of a batch of 1 decodes, such as .* row"):
        list(feed(manifest, mode, batch=1, max_bad_fraction=1.0).epoch(0))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_leaves_bad_images_out_and_counts_them(spoiled, mode, world) -> None:
    feeds = [evaluation(spoiled, mode, rank=rank, world=world) for rank in range(world)]
    for _ in range(2):
        seen = [i for fed in feeds for batch in fed for i in batch.index.tolist()]
        assert sorted(seen) == [i for i in range(N) if i not in BAD]
        assert sum(fed.bad_images for fed in feeds) == len(BAD)


@pytest.mark.parametrize("mode", MODES)
def test_a_split_of_bad_images_only_is_counted(tmp_path, mode) -> None:
    fed = evaluation(squares(tmp_path / "set", 5, bad=range(5)), mode)
    assert list(fed) == [] and fed.bad_images == 5


# -- labels that are not the shards' own -------------------------------------------------------------------------------

NOISE = LabelNoise(fraction=0.5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", [1, 2])
def test_noisy_labels_come_with_their_images_and_change_nothing_else(small, mode, world) -> None:
    labels = np.random.default_rng(5).permutation(N)
    for rank in range(world):
        options = {"rank": rank, "world": world}
        clean, noisy = feed(small, mode, **options), feed(small, mode, labels=labels, label_noise=NOISE, **options)
        assert (noisy.steps_per_epoch, noisy.dropped) == (clean.steps_per_epoch, clean.dropped)
        for right, batch in zip(clean.epoch(1, 2), noisy.epoch(1, 2), strict=True):
            assert batch.images.equal(right.images) and batch.ids.equal(right.ids) and batch.index.equal(right.index)
            assert np.array_equal(batch.labels, labels[batch.index])
            assert np.array_equal(right.labels, right.index // PER_CLASS)


def test_a_bad_image_gives_its_noisy_label_away_too(spoiled) -> None:
    labels = np.arange(N)[::-1].copy()
    options = {"labels": labels, "label_noise": NOISE, "max_bad_fraction": 0.5}
    one, other = (feed(spoiled, mode, **options) for mode in MODES)
    for streamed, resident in zip(one.epoch(0), other.epoch(0), strict=True):
        assert identical(streamed, resident) and np.array_equal(streamed.labels, labels[streamed.index])
    assert one.bad_rows <= other.bad_rows == set(BAD) and other.bad_images == len(BAD)


def test_an_epoch_of_noisy_labels_left_early_ends_its_threads(small) -> None:
    batches = feed(small, "stream", labels=np.arange(N), label_noise=NOISE).epoch(0)
    next(batches)
    assert workers()
    batches.close()
    assert not workers()


def test_noise_without_its_labels_is_a_mistake(small) -> None:
    for options in ({"label_noise": NOISE}, {"labels": np.arange(N)}):
        with pytest.raises(ValueError, match="exactly where"):
            feed(small, "resident", **options)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_images_of_several_sizes_are_an_error_with_a_way_out(photos, mode) -> None:
    with pytest.raises(DataError) as error:
        list(feed(photos, mode, CIFAR).epoch(0))
    assert "images come out in different sizes: " in str(error.value) and "random_resized_crop" in str(error.value)
    assert error.value.where == "data.augment"
    with pytest.raises(DataError, match=r"data\.augment: an image's views come out in different sizes: .* as 32 x "):
        turned = [{"resize": {"size": 32}}, "rot90_views"]
        list(feed(photos, mode, turned, views=2, rows=np.arange(20)).epoch(0))
    with pytest.raises(DataError, match=r"data\.eval_transform: images come out in different sizes"):
        list(evaluation(photos, mode))
    with pytest.raises(DataError, match=r"data\.eval_transform: center_crop on .*parquet row \d+: an image of"):
        list(evaluation(photos, mode, [{"center_crop": {"size": 300}}]))


@pytest.mark.parametrize("mode", MODES)
def test_a_truncated_shard_is_an_error(tmp_path, mode) -> None:
    manifest = squares(tmp_path / "set", 40)
    shard = tmp_path / "set" / manifest.shards[0].name
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match="cut off or changed"):
        list(feed(manifest, mode).epoch(0))


def test_batches_that_cannot_be_are_refused(small) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch: a batch of 20 cannot be shared evenly by 3 workers"):
        feed(small, "resident", world=3)
    with pytest.raises(DataError, match=r"203 training images do not fill one batch of 204.*data\.validation"):
        feed(small, "resident", batch=204)
    with pytest.raises(ConfigError, match=r"data\.augment\.0"):
        feed(small, "resident", ["padcrop"])
    with pytest.raises(ConfigError, match="flip is random"):
        evaluation(small, "stream", ["flip"])
    for mode in MODES:
        with pytest.raises(ConfigError, match=r"data\.augment\.0\.flip\.views: there is no view 2: data\.views is 2"):
            feed(small, mode, [{"flip": {"views": [2]}}], views=2)


# -- threads, modes, pixels --------------------------------------------------------------------------------------------


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("kdray-")]


def test_threads_end_with_the_epoch_or_when_it_is_left_early(small) -> None:
    whole = feed(small, "stream").epoch(0)
    list(whole)
    assert not workers()
    left = feed(small, "stream").epoch(0)
    next(left)
    assert workers()
    left.close()
    assert not workers()


def test_an_error_in_a_thread_arrives_after_what_came_before_it(small, monkeypatch) -> None:
    reads = []

    def fail_late(manifest, index):
        reads.append(len(index))
        if len(reads) > 2:
            raise KdrayError("the disk is on fire")
        return read_rows(manifest, index)

    monkeypatch.setattr("kdray.data.threads.read_rows", fail_late)
    seen = 0
    with pytest.raises(KdrayError, match="the disk is on fire"):
        for batch in feed(small, "stream").epoch(0):
            seen += len(batch.labels)
    assert sum(reads[:2]) - 20 < seen <= sum(reads[:2])
    assert not workers()


def test_auto_chooses_by_decoded_size(tmp_path) -> None:
    flat = squares(tmp_path / "set", 50, flat=True)
    decoded = 50 * 16 * 16 * 3
    assert will_stream(data(flat, mode="stream"), flat)
    assert not will_stream(data(flat, mode="resident", resident_limit_bytes=1), flat)
    assert not will_stream(data(flat, resident_limit_bytes=decoded), flat)
    assert will_stream(data(flat, resident_limit_bytes=decoded - 1), flat)
    assert not will_stream(data(flat, resident_limit_bytes=decoded // 2), flat, rows=25)
    assert will_stream(data(flat, resident_limit_bytes=10), flat)
    for limit, kind in ((decoded, "Resident"), (decoded - 1, "Stream")):
        made = (
            feed(flat, "auto", resident_limit_bytes=limit),
            eval_feed(data(flat, resident_limit_bytes=limit), flat, np.arange(50), batch=10),
        )
        assert [type(one).__name__ for one in made] == [f"{kind}TrainFeed", f"{kind}EvalFeed"]


def test_auto_reads_nothing_where_nothing_can_be_read(small) -> None:
    shard = replace(small.shards[0], bytes=0, rows=10**7, row_groups=(10**7,))
    assert will_stream(data(small), Manifest.declared(shard, num_classes=10))
    small_one = Manifest.declared(replace(shard, rows=50_000, row_groups=(50_000,)), num_classes=10)
    assert not will_stream(data(small), small_one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_normalise(dtype, layout) -> None:
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8).contiguous(memory_format=layout)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    got = normalise(images, mean, std, dtype)
    assert got.dtype == dtype and got.is_contiguous(memory_format=layout)
    expected = (images.double() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    tolerance = {torch.bfloat16: 2**-8, torch.float16: 2**-11}.get(dtype, 1e-6)
    assert ((got.double() - expected).abs() <= tolerance * expected.abs().clamp(min=1)).all()
