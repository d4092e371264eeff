"""The Hugging Face `datasets` library reads a packed set as it is: images, class names, ids."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest

from kdray.data.decode import decode
from kdray.data.pack.execute import pack
from kdray.data.pack.options import PackOptions
from tests.data.pack.pictures import NAMES, collection, contents, write_pictures


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_packed_set(tmp_path: Path, as_folder: bool) -> None:
    source = write_pictures(tmp_path / "source", 40)
    for split in ("train", "val"):
        pack(collection(source, split), str(tmp_path / "set" / split), PackOptions(shard_bytes=30_000), workers=0)
    cache = str(tmp_path / "cache")
    if as_folder:
        read = datasets.load_dataset(str(tmp_path / "set"), cache_dir=cache)
        assert set(read) == {"train", "validation"}
    else:
        files = {split: str(tmp_path / "set" / split / "*.parquet") for split in ("train", "validation")}
        files["validation"] = files["validation"].replace("validation", "val")
        read = datasets.load_dataset("parquet", data_files=files, cache_dir=cache)
    train = read["train"]
    assert len(train) == len(read["validation"]) == 40
    assert isinstance(train.features["image"], datasets.Image)
    assert train.features["label"].names == list(NAMES)
    originals = contents(source)
    for row in train.select(range(5)):
        assert row["label"] == int(row["id"].split("-")[1][0])
        assert np.array_equal(np.asarray(row["image"].convert("RGB")), decode(originals[row["id"]]))
