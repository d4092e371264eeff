"""Damaged and wrong shards are told in one line, before any training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kdray.data.manifest_json import MANIFEST
from kdray.data.shards import (
    ShardColumns,
    read_labels,
    read_manifest,
    read_rows,
)
from kdray.errors import DataError
from tests.data.shard_sets import images, parquet, some, structs, told, write


class TestBadData:
    @pytest.mark.parametrize(
        ("columns", "asked", "words"),
        [
            (
                {"img": images(4), "label": [0] * 4},
                ShardColumns(),
                ["no column 'image'", "img, label", "data.columns.image"],
            ),
            ({"image": images(4), "labels": [0] * 4}, ShardColumns(), ["'label' (did you mean 'labels'?)"]),
            ({"image": images(4), "label": [0] * 4}, ShardColumns(id="key"), ["no column 'key'", "data.columns.id"]),
            ({"image": ["a.png"] * 4, "label": [0] * 4}, ShardColumns(), ["'image' is string", "struct<bytes"]),
            ({"image": [{"path": "a"}] * 4, "label": [0] * 4}, ShardColumns(), ["'image' is struct<path: string>"]),
            ({"image": images(4), "label": ["cat"] * 4}, ShardColumns(), ["'label' is string", "ClassLabel"]),
            ({"image": images(4), "label": [0.5] * 4}, ShardColumns(), ["'label' is double", "integers"]),
            ({"image": images(4), "label": [0] * 4, "key": [0.5] * 4}, ShardColumns(id="key"), ["'key' is double"]),
            ({"image": images(4), "label": [0, -1, 0, 0]}, ShardColumns(), ["a label is -1", "must be left out"]),
        ],
    )
    def test_columns(self, tmp_path: Path, columns: dict[str, object], asked: ShardColumns, words: list[str]) -> None:
        parquet(tmp_path / "a.parquet", columns)
        with pytest.raises(DataError) as error:
            read_manifest(str(tmp_path), asked)
        told(error, *words)

    def test_shards_of_different_kinds(self, tmp_path: Path) -> None:
        parquet(tmp_path / "a.parquet", {"image": images(4), "label": [0] * 4})
        parquet(tmp_path / "b.parquet", {"image": structs(4), "label": [0] * 4})
        with pytest.raises(DataError, match=r"b\.parquet: its columns are of another kind than those of a\.parquet"):
            read_manifest(str(tmp_path))

    def test_an_id_that_the_set_lacks(self, tmp_path: Path) -> None:
        write(some(10), tmp_path / "set")
        with pytest.raises(DataError, match="has no column 'key' as id"):
            read_manifest(str(tmp_path / "set"), ShardColumns(id="key"))
        with pytest.raises(DataError, match="has no column 'img' as image"):
            read_manifest(str(tmp_path / "set"), ShardColumns(image="img"))

    @pytest.mark.parametrize("null", ["image", "bytes", "label", "id"])
    def test_nulls_are_told_by_shard_and_row(self, tmp_path: Path, null: str) -> None:
        cells = structs(6).to_pylist()
        labels: list[int | None] = [0] * 6
        keys: list[str | None] = ["k"] * 6
        if null == "image":
            cells[5] = None
        elif null == "bytes":
            cells[5] = {"bytes": None, "path": "5.png"}
        elif null == "label":
            labels[5] = None
        else:
            keys[5] = None
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        parquet(tmp_path / "a.parquet", {"image": pa.array(cells, kind), "label": labels, "id": keys})
        manifest = read_manifest(str(tmp_path), ShardColumns(id="id"))
        with pytest.raises(DataError) as error:
            read_rows(manifest, np.array([5]))
        column = "image" if null == "bytes" else null
        told(error, "a.parquet", "row 5", f"no value in column '{column}'")
        if null in ("label", "id"):
            with pytest.raises(DataError, match="row 5 has no value"):
                read_labels(manifest)

    def test_a_label_out_of_range_is_told_by_shard_and_row(self, tmp_path: Path) -> None:
        parquet(tmp_path / "a.parquet", {"image": images(4), "label": [0] * 4})
        parquet(tmp_path / "b.parquet", {"image": images(6), "label": [0, 1, 0, 0, 0, 7]})
        manifest = dataclasses.replace(read_manifest(str(tmp_path)), num_classes=5)
        with pytest.raises(DataError) as error:
            read_labels(manifest)
        told(error, "b.parquet", "row 5 has the label 7", "5 classes have labels 0..4")
        with pytest.raises(DataError, match="row 5 has the label 7"):
            read_rows(manifest, np.array([0, 9]))

    def test_a_wrong_number_of_classes(self, tmp_path: Path) -> None:
        write(some(10), tmp_path / "set")
        with pytest.raises(DataError) as error:
            read_manifest(str(tmp_path / "set"), classes=10)
        told(error, "has 3 classes, but 10 are expected", "data.classes: 3")

    @pytest.mark.parametrize("keep", [0, 3, 100, -1, -20])
    def test_a_file_that_is_cut_off(self, tmp_path: Path, keep: int) -> None:
        parquet(tmp_path / "a.parquet", {"image": images(4), "label": [0] * 4})
        path = parquet(tmp_path / "b.parquet", {"image": images(40), "label": [0] * 40})
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DataError) as error:
            read_manifest(str(tmp_path))
        told(error, "b.parquet", "is cut off, or no Parquet file")

    def test_a_file_whose_middle_is_missing(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", {"image": images(200), "label": [0] * 200})
        content = path.read_bytes()
        path.write_bytes(content[:100] + content[5000:])
        with pytest.raises(DataError, match="is shorter than its footer says"):
            read_manifest(str(tmp_path))

    def test_a_footer_that_is_garbage(self, tmp_path: Path) -> None:
        (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\xff" * 200 + (150).to_bytes(4, "little") + b"PAR1")
        with pytest.raises(DataError, match=r"a\.parquet: its footer does not read") as error:
            read_manifest(str(tmp_path))
        told(error)

    def test_pages_that_are_garbage(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", {"image": images(200), "label": [0] * 200}, compression="zstd")
        content = path.read_bytes()
        path.write_bytes(content[:4] + b"\xff" * 3000 + content[3004:])
        manifest = read_manifest(str(tmp_path))
        with pytest.raises(DataError, match=r"a\.parquet: does not read") as error:
            read_rows(manifest, np.arange(200))
        told(error)

    @pytest.mark.parametrize("damage", ["cut", "gone", "longer"])
    def test_a_set_that_changed_since_its_manifest(self, tmp_path: Path, damage: str) -> None:
        manifest = write(some(100), tmp_path / "set")
        shard = tmp_path / "set" / manifest.shards[1].name
        if damage == "gone":
            shard.unlink()
        else:
            content = shard.read_bytes()
            shard.write_bytes(content[:-10] if damage == "cut" else content + b"more")
        word = "is missing" if damage == "gone" else "cut off or changed"
        for read in (lambda: read_manifest(manifest.uri), lambda: read_labels(manifest)):
            with pytest.raises(DataError) as error:
                read()
            told(error, manifest.shards[1].name, word)
        with pytest.raises(DataError):
            read_rows(manifest, np.arange(100))
        assert len(read_rows(manifest, np.arange(10))) == 10  # of another shard

    def test_a_stranger_in_a_set(self, tmp_path: Path) -> None:
        write(some(10), tmp_path / "set")
        parquet(tmp_path / "set" / "more.parquet", {"image": images(4), "label": [0] * 4})
        with pytest.raises(DataError) as error:
            read_manifest(str(tmp_path / "set"))
        told(error, "does not list more.parquet", f"Remove {MANIFEST}")

    @pytest.mark.parametrize(
        "content", ["{", '{"format": "kdray_shards", "version": 1}', '{"format": "kdray_shards", "version": 9}']
    )
    def test_a_damaged_manifest(self, tmp_path: Path, content: str) -> None:
        write(some(10), tmp_path / "set")
        (tmp_path / "set" / MANIFEST).write_text(content)
        with pytest.raises(DataError, match=MANIFEST) as error:
            read_manifest(str(tmp_path / "set"))
        told(error)

    @pytest.mark.parametrize(
        "content", ["[", "{}", '{"classes": []}', '{"classes": [1]}', '["a", "a"]', '{"classes": ["a"], "std": [1]}']
    )
    def test_a_damaged_classes_json(self, tmp_path: Path, content: str) -> None:
        parquet(tmp_path / "a.parquet", {"image": images(4), "label": [0] * 4})
        (tmp_path / "classes.json").write_text(content)
        with pytest.raises(DataError, match=r"classes\.json") as error:
            read_manifest(str(tmp_path))
        told(error)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="does not exist"):
            read_manifest(str(tmp_path / "none"))
        with pytest.raises(DataError, match=r"holds no \*\.parquet file"):
            read_manifest(str(tmp_path))
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(DataError, match=r"no file matches 'train-\*'; it has notes\.txt"):
            read_manifest(str(tmp_path / "train-*"))
        parquet(tmp_path / "a.parquet", {"image": images(0), "label": pa.array([], pa.int64())})
        with pytest.raises(DataError, match="have no rows"):
            read_manifest(str(tmp_path))

    def test_part_of_a_set_by_a_glob(self, tmp_path: Path) -> None:
        samples = some(100, ids="int")
        whole = write(samples, tmp_path / "set")
        part = read_manifest(str(tmp_path / "set" / "train-0000[12]-*"))
        assert [shard.name for shard in part.shards] == [shard.name for shard in whole.shards[1:3]]
        assert part.fingerprint != whole.fingerprint and part.columns.id == "id"
        first = int(whole.offsets[1])
        assert read_rows(part, np.array([0])).images == [samples[first].image]
        assert read_manifest(str(tmp_path / "set" / "*.parquet")).fingerprint == whole.fingerprint
