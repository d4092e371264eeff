"""What an experiment's data section becomes: refusals that need both sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdray.data.dataset import open_dataset
from kdray.data.decode import encode_png
from kdray.data.writer import Sample, write_shards
from kdray.errors import DataError
from kdray.experiment import Data, LabelNoise

IMAGE = encode_png(np.zeros((8, 8, 3), np.uint8))


def write(folder: Path, names: list[str] | None) -> str:
    samples = [Sample(IMAGE, i % 3, i) for i in range(30)]
    return write_shards(samples, str(folder), class_names=names).uri


def test_a_label_means_one_class_in_train_and_test(tmp_path: Path) -> None:
    train = write(tmp_path / "train", ["cat", "dog", "owl"])
    with pytest.raises(DataError, match=r"data\.test .*test: label 1 is 'owl' here and 'dog' in .*train"):
        open_dataset(Data(train=train, test=write(tmp_path / "test", ["cat", "owl", "dog"])))


@pytest.mark.parametrize("names", [["cat", "dog", "owl"], None])
def test_equal_or_unnamed_classes_pass(tmp_path: Path, names: list[str] | None) -> None:
    train = write(tmp_path / "train", ["cat", "dog", "owl"])
    dataset = open_dataset(Data(train=train, test=write(tmp_path / "test", names)))
    assert dataset.class_names == ("cat", "dog", "owl")
    assert dataset.test is not None and len(dataset.test) == 30


def test_a_fraction_of_train_leaves_validation_and_test_as_they_are(tmp_path: Path) -> None:
    uri = write(tmp_path / "train", None)
    whole, part = (open_dataset(Data(train=uri, test=uri, validation=0.3, fraction=f)) for f in (1.0, 0.5))
    assert whole.train and part.train and whole.validation and part.validation and part.test
    counts = np.bincount(whole.labels[whole.train.rows])
    assert np.bincount(part.labels[part.train.rows]).tolist() == [max(1, round(n / 2)) for n in counts]
    assert set(part.train.rows) < set(whole.train.rows)
    assert np.array_equal(part.validation.rows, whole.validation.rows) and len(part.test) == 30
    assert part.fingerprints() == whole.fingerprints() and part.train.relabelled is None
    few = open_dataset(Data(train=uri, fraction=0.5, limit=4))
    assert np.array_equal(few.train.rows, open_dataset(Data(train=uri, fraction=0.5)).train.rows[:4])


def test_label_noise_is_in_train_alone_and_in_its_fingerprint(tmp_path: Path) -> None:
    uri = write(tmp_path / "train", None)
    noise = LabelNoise(fraction=0.5, type="pair")
    clean, noisy = (open_dataset(Data(train=uri, test=uri, validation=0.3, label_noise=n)) for n in (None, noise))
    rows = noisy.train.rows
    wrong = np.flatnonzero(noisy.labels != clean.labels)
    assert set(wrong) <= set(rows) and len(wrong) == noisy.train.labels_changed == round(len(rows) / 2)
    assert noisy.train.relabelled is noisy.labels and clean.train.relabelled is None
    assert clean.train.labels_changed is None
    assert noisy.validation.relabelled is None and noisy.test.relabelled is None
    prints = [one.fingerprints() for one in (clean, noisy)]
    assert prints[0]["train"] != prints[1]["train"] and prints[0]["test"] == prints[1]["test"]
    assert noisy.validation.fingerprint == clean.validation.fingerprint
    again = open_dataset(Data(train=uri, test=uri, validation=0.3, label_noise=noise, mode="stream"))
    assert np.array_equal(again.labels, noisy.labels)
