"""Images that do not decode, and labels that are not the shards' own, in both feeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdray.data.bad import stand_ins
from kdray.data.decode import encode_png
from kdray.data.manifest import Manifest
from kdray.data.writer import Sample, write_shards
from kdray.errors import DataError
from kdray.experiment import LabelNoise

from .conftest import BAD
from .feeds import CIFAR, IMAGENET, MODES, N, evaluation, feed, workers
from .photos import photo
from .small import PER_CLASS, identical, squares


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("augment", [CIFAR, IMAGENET], ids=["gathered", "augmented"])
def test_a_bad_image_gives_its_slot_to_the_first_good_one_of_its_block(small, spoiled, mode, augment) -> None:
    options = {"views": 2, "rank": 1, "world": 2, "shuffle_window_bytes": 10**9}
    clean = feed(small, mode, augment, **options)
    fed = feed(spoiled, mode, augment, max_bad_fraction=0.5, **options)
    met = set()
    for epoch in (0, 1, 2):
        for right, batch in zip(clean.epoch(epoch), fed.epoch(epoch), strict=True):
            rows = right.index.tolist()
            good = [i for i, row in enumerate(rows) if row not in BAD]
            block = math.gcd(len(rows), 16)
            near = [next((j for j in good if j // block == i // block), good[0]) for i in range(len(rows))]
            source = [near[i] if row in BAD else i for i, row in enumerate(rows)]
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


LINES = (5, 9, 30)
RESIZED = [{"resize": {"size": 24}}, {"center_crop": {"size": 24}}]


@pytest.fixture(scope="module")
def lined(tmp_path_factory) -> Manifest:
    """Photographs and, in three rows, lines of pixels that no resize of the shorter side can take."""
    folder = tmp_path_factory.mktemp("lined") / "set"
    line = encode_png(np.zeros((1, 120_000, 3), np.uint8))
    images = [photo(5, number, (50, 40)) for number in range(40)]
    return write_shards([Sample(line if i in LINES else image, 0, i) for i, image in enumerate(images)], str(folder))


@pytest.mark.parametrize("mode", MODES)
def test_an_image_that_a_transform_would_make_too_large_counts_as_bad(lined, mode) -> None:
    for augment in (RESIZED, [{"resize": {"size": 24, "views": [1]}}, {"random_resized_crop": {"size": 24}}]):
        fed = feed(lined, mode, augment, views=2, max_bad_fraction=0.5)
        met = [row for batch in fed.epoch(0) for row in batch.index.tolist()]
        assert len(met) == 40 and not set(met) & set(LINES)
        assert fed.bad_rows == set(LINES) and fed.bad_images == 3
    with pytest.raises(DataError, match="120000 x 1 pixels, to become 2880000 x 24, more than 67108864"):
        list(feed(lined, mode, RESIZED, max_bad_fraction=0.05).epoch(0))
    judged = evaluation(lined, mode, RESIZED)
    assert sum(len(batch.index) for batch in judged) == 37 and judged.bad_images == 3


def test_images_too_large_after_a_transform_are_replaced_as_in_the_other_feed(lined) -> None:
    one, other = (feed(lined, mode, RESIZED, max_bad_fraction=0.5) for mode in MODES)
    for streamed, resident in zip(one.epoch(0), other.epoch(0), strict=True):
        assert identical(streamed, resident)


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


@pytest.mark.parametrize("mode", MODES)
def test_with_bad_images_too_any_number_of_workers_sees_the_same_batches(mode, tmp_path) -> None:
    manifest = squares(tmp_path / "set", 330, bad=(3, 40, 41, 200, 201))

    def rows(world: int) -> list[list[int]]:
        settings = {"batch": 64, "world": world, "max_bad_fraction": 0.5}
        parts = [list(feed(manifest, mode, rank=rank, **settings).epoch(1)) for rank in range(world)]
        return [sorted(row for batch in step for row in batch.index.tolist()) for step in zip(*parts, strict=True)]

    assert rows(1) == rows(2) == rows(4)


def test_a_stand_in_is_of_the_same_block_where_there_is_one() -> None:
    good = np.ones((2, 32), dtype=bool)
    good[0, [0, 1, 20]] = False
    good[1, 16:] = False
    found = stand_ins(good)
    assert found[0, [0, 1, 2, 20, 21]].tolist() == [2, 2, 2, 16, 21]
    assert found[1].tolist() == [*range(16), *[0] * 16]
