"""Few-shot subsets and label noise: which rows, which labels, and that nothing else decides them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdray.data.labels import part_of_classes, with_noise
from kdray.errors import DataError
from kdray.experiment import LabelNoise

N, CLASSES = 3000, 7
RNG = np.random.default_rng(0)
LABELS = np.where(RNG.random(N) < 0.3, 0, RNG.integers(0, CLASSES, N))  # uneven
IDS = RNG.permutation(10 * N)[:N].astype(np.int64)
ROWS = np.flatnonzero(RNG.random(N) < 0.8)
KINDS = ["permute", "uniform", "pair"]


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.25, 0.5, 0.999, 1.0])
def test_every_class_keeps_its_fraction(fraction) -> None:
    kept = part_of_classes(ROWS, LABELS, IDS, fraction, 0)
    assert np.array_equal(kept, np.unique(kept)) and set(kept) <= set(ROWS.tolist())
    for label in range(CLASSES):
        whole = (LABELS[ROWS] == label).sum()
        assert (LABELS[kept] == label).sum() == max(1, round(whole * fraction))


def test_a_smaller_fraction_lies_inside_a_larger_one() -> None:
    parts = [set(part_of_classes(ROWS, LABELS, IDS, fraction, 0)) for fraction in (0.01, 0.25, 0.5, 0.75, 1)]
    for smaller, larger in itertools.pairwise(parts):
        assert smaller < larger


@given(st.integers(1, 40), st.integers(1, 5), st.floats(0.01, 1), st.integers(0, 2**40))
def test_no_class_is_lost(rows, classes, fraction, seed) -> None:
    labels, ids = np.arange(rows) % classes, np.arange(rows) * 3
    kept = part_of_classes(np.arange(rows), labels, ids, fraction, seed)
    assert set(labels[kept]) == set(labels)


def test_what_is_kept_is_a_function_of_the_ids_and_the_seed() -> None:
    kept = set(IDS[part_of_classes(ROWS, LABELS, IDS, 0.25, 0)])
    order = RNG.permutation(N)  # the same samples in other shards
    rows = np.flatnonzero(np.isin(order, ROWS))
    assert set(IDS[order][part_of_classes(rows, LABELS[order], IDS[order], 0.25, 0)]) == kept
    other = set(IDS[part_of_classes(ROWS, LABELS, IDS, 0.25, 1)])
    assert abs(len(kept & other) / len(kept) - 0.25) < 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 1.0])
def test_noise_is_on_as_many_training_rows_as_asked(kind, fraction) -> None:
    before = LABELS.copy()
    noisy = with_noise(LABELS, ROWS, IDS, LabelNoise(fraction=fraction, type=kind), CLASSES)
    changed = np.flatnonzero(noisy != LABELS)
    assert np.array_equal(LABELS, before) and set(changed) <= set(ROWS.tolist())
    assert noisy.min() >= 0 and noisy.max() < CLASSES and noisy.dtype == LABELS.dtype
    chosen = round(fraction * len(ROWS))
    if kind == "permute":
        same = ((np.bincount(LABELS[ROWS]) / len(ROWS)) ** 2).sum()  # chance that an exchange changes nothing
        assert abs(len(changed) - chosen * (1 - same)) < 5 * np.sqrt(chosen) + 1
        assert np.array_equal(np.bincount(noisy), np.bincount(LABELS))
    else:
        assert len(changed) == chosen


def test_another_class_is_every_other_one_as_often_and_a_pair_is_the_next() -> None:
    labels, ids = np.full(6000, 2), np.arange(6000)
    uniform = with_noise(labels, ids, ids, LabelNoise(fraction=1, type="uniform"), 5)
    counts = np.bincount(uniform, minlength=5)
    assert counts[2] == 0 and abs(counts[[0, 1, 3, 4]] / 6000 - 0.25).max() < 0.03
    pair = with_noise(LABELS, ROWS, IDS, LabelNoise(fraction=1, type="pair"), CLASSES)
    assert np.array_equal(pair[ROWS], (LABELS[ROWS] + 1) % CLASSES)


@pytest.mark.parametrize("kind", ["uniform", "pair"])
def test_more_noise_keeps_the_rows_of_less(kind) -> None:
    less, more = (with_noise(LABELS, ROWS, IDS, LabelNoise(fraction=f, type=kind), CLASSES) for f in (0.2, 0.4))
    wrong = less != LABELS
    assert np.array_equal(more[wrong], less[wrong])


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_a_function_of_the_ids_and_the_seed(kind) -> None:
    noise = LabelNoise(fraction=0.3, type=kind)
    noisy = with_noise(LABELS, ROWS, IDS, noise, CLASSES)
    order = RNG.permutation(N)
    rows = np.flatnonzero(np.isin(order, ROWS))
    assert np.array_equal(with_noise(LABELS[order], rows, IDS[order], noise, CLASSES), noisy[order])
    other = with_noise(LABELS, ROWS, IDS, LabelNoise(fraction=0.3, type=kind, seed=1), CLASSES)
    assert not np.array_equal(other, noisy)


def test_noise_and_subsets_choose_on_their_own() -> None:
    kept = part_of_classes(ROWS, LABELS, IDS, 0.5, 0)
    wrong = with_noise(LABELS, ROWS, IDS, LabelNoise(fraction=0.5, type="pair"), CLASSES) != LABELS
    assert abs(wrong[kept].mean() - 0.5) < 0.05


def test_one_class_has_no_other() -> None:
    with pytest.raises(DataError, match=r"data\.label_noise: the data has one class"):
        with_noise(np.zeros(5, np.int64), np.arange(5), np.arange(5), LabelNoise(fraction=0.5), 1)
