"""What trials share: the same bits as without, under keys that tell apart whatever differs, and never written to."""

from __future__ import annotations

import logging
import pickle
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from kdray.data import resident
from kdray.data.augment import build_augment
from kdray.data.decode import encode_png
from kdray.data.gather import DeviceStore, GatherPlan
from kdray.data.readonly import tensor_of
from kdray.data.resident_images import decode_all
from kdray.data.shared import LocalSharing, install, keep
from kdray.data.writer import Sample, write_shards
from kdray.errors import DataError
from kdray.experiment import LabelNoise

from .conftest import BAD
from .feeds import CIFAR, IMAGENET, ROTATED, N, evaluation, feed
from .small import identical

CROPPED = [{"resize": {"size": 40}}, {"center_crop": {"size": 32}}]
PAINTED = ["color_jitter", "rand_augment", "trivial_augment", "auto_augment", "gaussian_blur", "random_erasing"]


@dataclass(frozen=True)
class Some:
    """A value of some bytes."""

    nbytes: int


class Locked:
    """Sharing as Ray's object store gives it: what comes back is another copy, which cannot be written."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[bytes, list[bytes]]] = {}
        self.asked: list[str] = []
        self.left = 0

    def keep(self, key: str, make: Any, expected: Any) -> Any:
        self.asked.append(key)
        if key not in self.made:
            value = pickle.loads(pickle.dumps(make))()
            assert expected() > 0
            buffers: list[pickle.PickleBuffer] = []
            said = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
            self.made[key] = said, [bytes(buffer) for buffer in buffers]
        said, kept = self.made[key]
        return pickle.loads(said, buffers=kept)

    def leave(self) -> None:
        self.left += 1

    def close(self) -> None: ...


@pytest.fixture
def no_warning():
    """Every warning is an error, also those that torch gives once only."""
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_warn_always(always)


@pytest.mark.parametrize(
    ("kind", "augment", "views"),
    [
        ("small", CIFAR, 2),
        ("small", [{"pad_crop": {"fill": "reflect"}}, "flip"], 1),
        ("small", ROTATED, 4),
        ("small", IMAGENET, 2),
        ("small", PAINTED, 1),
        ("photos", [*IMAGENET, *PAINTED], 1),
        ("photos", [*CROPPED, *CIFAR], 2),
        ("spoiled", CIFAR, 2),
        ("spoiled", IMAGENET, 1),
    ],
)
def test_a_train_feed_gives_the_same_bits_from_what_another_made(request, no_warning, kind, augment, views) -> None:
    manifest, sharing = request.getfixturevalue(kind), Locked()
    options = {"views": views, "max_bad_fraction": 0.5}
    plain = feed(manifest, "resident", augment, **options)
    with install(sharing):
        first, second = (feed(manifest, "resident", augment, **options) for _ in range(2))
    assert len(sharing.made) == 1 and len(sharing.asked) == 2
    for epoch in (0, 3):
        for one, two, three in zip(plain.epoch(epoch), first.epoch(epoch), second.epoch(epoch), strict=True):
            assert identical(one, two) and identical(one, three)
            two.images.fill_(7)  # a batch is its holder's
    assert plain.bad_rows == second.bad_rows == (set(BAD) if kind == "spoiled" else set())


@pytest.mark.parametrize(("kind", "transform"), [("small", ()), ("spoiled", ()), ("photos", CROPPED)])
def test_an_evaluation_feed_gives_the_same_bits_from_what_another_made(request, no_warning, kind, transform) -> None:
    manifest, sharing = request.getfixturevalue(kind), Locked()
    plain = evaluation(manifest, "resident", transform)
    with install(sharing):
        evaluation(manifest, "resident", transform)
        second = evaluation(manifest, "resident", transform)
    assert len(sharing.made) == 1 and second.bad_images == plain.bad_images == (len(BAD) if kind == "spoiled" else 0)
    for _ in range(2):
        assert all(identical(one, two) for one, two in zip(plain, second, strict=True))


def test_images_of_one_size_that_cannot_be_gathered_come_out_of_the_padded_ones(tmp_path, no_warning) -> None:
    rng = np.random.default_rng(0)
    wide = [encode_png(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)) for _ in range(60)]
    manifest = write_shards([Sample(image, 0, i) for i, image in enumerate(wide)], str(tmp_path / "set"))
    turned = ["rot90", {"pad_crop": {"size": 12}}]
    with install(Locked()):
        shared = feed(manifest, "resident", turned)
    for one, two in zip(feed(manifest, "stream", turned).epoch(1), shared.epoch(1), strict=True):
        assert identical(one, two)


def test_noisy_labels_are_the_trials_own(small) -> None:
    sharing = Locked()
    labels = np.random.default_rng(5).permutation(N)
    with install(sharing):
        clean = feed(small, "resident")
        noisy = feed(small, "resident", labels=labels, label_noise=LabelNoise(fraction=0.5))
    assert len(sharing.made) == 1
    for one, two in zip(clean.epoch(0), noisy.epoch(0), strict=True):
        assert one.images.equal(two.images) and np.array_equal(two.labels, labels[two.index])


def keys(manifest, augment=CIFAR, transform=(), rows=None, **options: Any) -> tuple[str, str]:
    sharing = Locked()
    with install(sharing):
        feed(manifest, "resident", augment, rows=rows, batch=10, **options)
        evaluation(manifest, "resident", transform, rows=rows)
    return tuple(sharing.asked)  # type: ignore[return-value]


def test_trials_share_what_is_the_same_and_nothing_else(small, photos) -> None:
    train, judged = keys(small)
    assert train != judged
    assert keys(small, ["flip", {"pad_crop": {"size": 12}}], views=2, seed=9) == (train, judged)
    paddings = [
        ["flip"],
        [{"pad_crop": {"padding": 2}}],
        [{"pad_crop": {"fill": 9}}],
        [{"pad_crop": {"fill": "reflect"}}],
    ]
    others = [keys(small, augment)[0] for augment in paddings]
    assert len({train, *others}) == 5
    assert keys(small, IMAGENET)[0] == keys(small, PAINTED)[0] == others[0]  # as they were decoded
    assert keys(small, transform=[{"center_crop": {"size": 8}}])[1] != judged
    assert not {*keys(small, rows=np.arange(100))} & {train, judged}
    assert not {*keys(photos, IMAGENET, CROPPED)} & {train, judged, *others}


def test_ranks_of_a_trial_share_the_training_images(small) -> None:
    sharing = Locked()
    with install(sharing):
        for rank in (0, 1):
            feed(small, "resident", rank=rank, world=2)
    assert len(sharing.made) == 1


def test_too_many_bad_images_stop_each_trial(spoiled, caplog) -> None:
    sharing = Locked()
    with install(sharing), caplog.at_level(logging.WARNING):
        for _ in range(2):
            with pytest.raises(DataError, match=f"of {N} images do not decode"):
                feed(spoiled, "resident", max_bad_fraction=0.001)
            feed(spoiled, "resident", max_bad_fraction=0.5)
    assert len(sharing.made) == 1 and caplog.text.count("does not decode") == 2 * len(BAD)


def test_a_plain_run_shares_nothing(small, monkeypatch) -> None:
    calls = []

    def spy(*given: Any) -> Any:
        calls.append(given)
        return decode_all(*given)

    monkeypatch.setattr(resident, "decode_all", spy)
    sharing = Locked()
    with install(sharing), install(None):
        for _ in range(2):
            feed(small, "resident")
    assert len(calls) == 2 and not sharing.asked and sharing.left == 1


def test_what_was_used_last_is_remembered_within_the_limit() -> None:
    sharing, made = LocalSharing(limit_bytes=100), []

    def make(key: str, nbytes: int) -> Some:
        made.append(key)
        return Some(nbytes)

    def ask(key: str, nbytes: int) -> None:
        with install(sharing):
            assert keep(key, lambda: make(key, nbytes), lambda: nbytes / 2).nbytes == nbytes

    for key, nbytes in [("a", 40), ("b", 40), ("a", 40), ("c", 60), ("a", 40), ("b", 40)]:
        ask(key, nbytes)
    assert made == ["a", "b", "c", "b"] and sharing.nbytes == 80  # b gave way to c, and c to b
    ask("d", 101)
    assert sharing.nbytes == 0
    ask("a", 40)
    assert pickle.loads(pickle.dumps(sharing)).nbytes == 0 and sharing.nbytes == 40
    sharing.close()
    ask("a", 40)
    assert made == ["a", "b", "c", "b", "d", "a", "a"]


def test_trials_of_one_process_share_without_ray(small) -> None:
    sharing, made = LocalSharing(), []
    for _ in range(3):
        with install(sharing):
            made.append(feed(small, "resident")._images.columns.labels)
    assert made[0] is made[1] is made[2]


def test_a_tensor_of_locked_memory_is_no_copy_and_no_warning(no_warning) -> None:
    memory = np.arange(12, dtype=np.uint8).reshape(3, 4)
    locked = memory[:, 1:3]
    locked.flags.writeable = False
    tensor = tensor_of(locked)
    memory[1, 1] = 99
    assert tensor[1, 0] == 99 and tensor.shape == (3, 2) and tensor_of(memory).data_ptr() == memory.ctypes.data
    assert tensor_of(np.empty((0, 3), np.int64)).shape == (0, 3)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    images.flags.writeable = False
    plan = GatherPlan.of(build_augment([]))
    assert plan is not None
    store = DeviceStore(images, plan, torch.device("cpu"))
    crops = store.crops(np.arange(5)[None], [np.empty((1, 5, 0))])
    assert np.array_equal(store.gather(crops, 0).permute(0, 2, 3, 1), images)
