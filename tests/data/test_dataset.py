"""What an experiment's data section becomes: refusals that need both sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdray.data.dataset import open_dataset
from kdray.data.decode import encode_png
from kdray.data.writer import Sample, write_shards
from kdray.errors import DataError
from kdray.experiment import Data

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
