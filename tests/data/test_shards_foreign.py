"""Shards that other programs wrote are read as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kdray.data.manifest_json import MANIFEST
from kdray.data.reader import text_id
from kdray.data.shards import (
    ShardColumns,
    read_labels,
    read_manifest,
    read_rows,
)
from kdray.errors import DataError
from tests.data.shard_sets import images, parquet, structs, told


class TestForeignSets:
    def test_plain_and_struct_images(self, tmp_path: Path) -> None:
        parquet(tmp_path / "plain" / "a.parquet", {"image": images(10), "label": pa.array(range(10), pa.uint8())})
        parquet(tmp_path / "struct" / "a.parquet", {"image": structs(10), "label": pa.array(range(10), pa.int16())})
        large = images(10).cast(pa.large_binary())
        parquet(tmp_path / "large" / "a.parquet", {"image": large, "label": list(range(10))}, compression="zstd")
        for kind in ("plain", "struct", "large"):
            manifest = read_manifest(str(tmp_path / kind))
            rows = read_rows(manifest, np.array([9, 0, 5]))
            assert rows.images == [images(10)[i].as_py() for i in (9, 0, 5)]
            assert rows.labels.tolist() == [9, 0, 5]
            assert manifest.num_classes == 10 and manifest.class_names is None
            assert manifest.shards[0].row_groups == (4, 4, 2)

    def test_column_names_are_free(self, tmp_path: Path) -> None:
        parquet(tmp_path / "a.parquet", {"img": images(6), "fine": [0, 1] * 3, "key": [f"k{i}" for i in range(6)]})
        manifest = read_manifest(str(tmp_path), ShardColumns("img", "fine", "key"))
        labels, ids = read_labels(manifest)
        assert labels.tolist() == [0, 1] * 3
        assert ids.tolist() == [text_id(f"k{i}".encode()) for i in range(6)]

    def test_binary_and_integer_ids(self, tmp_path: Path) -> None:
        keys = pa.array([f"k{i}".encode() for i in range(6)], pa.binary())
        numbers = pa.array(range(-3, 3), pa.int32())
        parquet(tmp_path / "a.parquet", {"image": images(6), "label": [0] * 6, "key": keys, "number": numbers})
        by_key = read_manifest(str(tmp_path), ShardColumns(id="key"))
        assert read_labels(by_key)[1].tolist() == [text_id(f"k{i}".encode()) for i in range(6)]
        by_number = read_manifest(str(tmp_path), ShardColumns(id="number"))
        assert read_labels(by_number)[1].tolist() == list(range(-3, 3))
        assert by_key.fingerprint != by_number.fingerprint

    def test_one_folder_may_hold_train_and_test(self, tmp_path: Path) -> None:
        for name, rows in (("train-00000-of-00002", 5), ("train-00001-of-00002", 6), ("test-00000-of-00001", 7)):
            parquet(tmp_path / f"{name}.parquet", {"image": images(rows), "label": [0] * rows})
        (tmp_path / "classes.json").write_text('{"classes": ["a", "b"], "mean": [0.1, 0.2, 0.3]}')
        train = read_manifest(str(tmp_path / "train-*.parquet"))
        assert (train.num_samples, train.num_classes, train.class_names) == (11, 2, ("a", "b"))
        assert train.mean == (0.1, 0.2, 0.3) and train.std is None
        assert read_manifest(str(tmp_path / "test-*")).num_samples == 7
        assert read_manifest(str(tmp_path / "train-00001-of-00002.parquet")).num_samples == 6
        assert read_manifest(f"file://{tmp_path}/train-*1-of-*.parquet").num_samples == 6
        with pytest.raises(DataError) as error:
            read_manifest(str(tmp_path))
        told(error, "several sets: test, train", "test-*.parquet")

    def test_missing_shards_are_told_by_their_numbers(self, tmp_path: Path) -> None:
        for number in (0, 1, 4):
            parquet(tmp_path / f"train-{number:05d}-of-00005.parquet", {"image": images(3), "label": [0] * 3})
        with pytest.raises(DataError) as error:
            read_manifest(str(tmp_path))
        told(error, "2 of 5 shards", "number 2", "train-*.parquet")
        assert read_manifest(str(tmp_path / "train-*.parquet")).num_samples == 9  # asked for as they are

    def test_class_names_of_hugging_face(self, tmp_path: Path) -> None:
        for names in (["a", "b", "c"], {"0": "a", "1": "b", "2": "c"}):
            said = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
            parquet(
                tmp_path / "a.parquet", {"image": images(4), "label": [0, 1, 0, 1]}, {"huggingface": json.dumps(said)}
            )
            manifest = read_manifest(str(tmp_path))
            assert (manifest.num_classes, manifest.class_names) == (3, ("a", "b", "c"))

    def test_labels_tell_the_number_of_classes(self, tmp_path: Path) -> None:
        for options in ({}, {"write_statistics": False}):
            parquet(tmp_path / "a.parquet", {"image": images(10), "label": [0, 1, 2, 3, 4] * 2}, **options)
            assert read_manifest(str(tmp_path)).num_classes == 5
            assert read_manifest(str(tmp_path), classes=100).num_classes == 100  # a part may lack classes
            with pytest.raises(DataError, match=r"a label is 4, but 3 classes are expected, so labels are 0\.\.2"):
                read_manifest(str(tmp_path), classes=3)

    def test_hidden_and_other_files_are_left_alone(self, tmp_path: Path) -> None:
        parquet(tmp_path / "a.parquet", {"image": images(4), "label": [0] * 4})
        for name in ("._a.parquet", "_common.parquet", "README.md", MANIFEST):
            (tmp_path / name).write_text("{}")
        (tmp_path / "deeper").mkdir()
        shutil.copy(tmp_path / "a.parquet", tmp_path / "deeper" / "b.parquet")
        assert read_manifest(str(tmp_path)).num_samples == 4

    def test_the_fingerprint_follows_the_data_and_not_its_place(self, tmp_path: Path) -> None:
        parquet(tmp_path / "a" / "x.parquet", {"image": images(8), "label": [0, 1] * 4})
        first = read_manifest(str(tmp_path / "a")).fingerprint
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        assert read_manifest(str(tmp_path / "b")).fingerprint == first
        parquet(tmp_path / "b" / "x.parquet", {"image": images(8), "label": [0, 2] * 4})
        assert read_manifest(str(tmp_path / "b")).fingerprint != first
        parquet(tmp_path / "b" / "x.parquet", {"image": images(8), "label": [0, 1] * 4}, row_group_size=3)
        assert read_manifest(str(tmp_path / "b")).fingerprint != first

    def test_a_footer_larger_than_the_first_read(self, tmp_path: Path) -> None:
        rows = 1500
        columns = {"image": pa.array([b"x"] * rows, pa.binary()), "label": [0] * rows}
        parquet(tmp_path / "a.parquet", columns, row_group_size=1)
        manifest = read_manifest(str(tmp_path))
        assert manifest.shards[0].row_groups == (1,) * rows
        assert read_rows(manifest, np.array([1499])).images == [b"x"]
