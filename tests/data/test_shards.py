"""Shards: what is written is read back, row for row, in any layout."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.data.manifest_json import MANIFEST
from kdray.data.reader import text_id
from kdray.data.shards import (
    images_at,
    iter_rows,
    read_labels,
    read_manifest,
    read_row_group,
    read_rows,
)
from tests.data.shard_sets import NAMES, some, write


class TestRoundTrip:
    def test_rows_come_back_in_any_order(self, tmp_path: Path) -> None:
        samples = some(200)
        manifest = write(samples, tmp_path / "set")
        assert read_manifest(str(tmp_path / "set")) == manifest
        assert len(manifest.shards) > 2 and manifest.num_samples == 200
        index = np.random.default_rng(1).integers(0, 200, 300)  # with duplicates
        rows = read_rows(manifest, index)
        assert rows.images == [samples[i].image for i in index]
        assert rows.labels.tolist() == [samples[i].label for i in index]
        assert rows.index.tolist() == index.tolist()
        assert all(array.dtype == np.int64 for array in (rows.labels, rows.ids, rows.index))

    def test_nothing_asked_is_nothing_read(self, tmp_path: Path) -> None:
        manifest = write(some(5), tmp_path / "set")
        shutil.rmtree(tmp_path / "set")
        assert len(read_rows(manifest, np.array([], np.int64))) == 0

    @pytest.mark.parametrize("row", [-1, 5])
    def test_a_row_that_is_not_there(self, tmp_path: Path, row: int) -> None:
        with pytest.raises(IndexError):
            read_rows(write(some(5), tmp_path / "set"), np.array([0, row]))

    def test_only_the_row_groups_that_are_needed_are_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = write(some(200), tmp_path / "set")
        read: list[int] = []
        plain = pq.ParquetFile.read_row_group

        def counting(self: pq.ParquetFile, number: int, **options: object) -> pa.Table:
            read.append(number)
            return plain(self, number, **options)

        monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
        read_rows(manifest, np.array([17, 3, 18, 2, 17]))
        assert sorted(read) == [0, 1]

    def test_chunks_are_the_whole(self, tmp_path: Path) -> None:
        samples = some(100)
        manifest = write(samples, tmp_path / "set")
        index = np.arange(100)[::-1]
        chunks = list(iter_rows(manifest, index, 33))
        assert [len(chunk) for chunk in chunks] == [33, 33, 33, 1]
        assert [image for chunk in chunks for image in chunk.images] == [s.image for s in samples[::-1]]

    def test_row_groups_tile_the_set(self, tmp_path: Path) -> None:
        samples = some(150, ids="int")
        manifest = write(samples, tmp_path / "set")
        tables = []
        for number in range(len(manifest.groups)):
            group = manifest.group(number)
            table = read_row_group(manifest, group.shard, group.row_group)
            assert table.column("index").to_pylist() == list(range(group.start, group.start + group.rows))
            tables.append(table)
        whole = pa.concat_tables(tables)
        assert images_at(whole) == [s.image for s in samples]
        assert images_at(whole.slice(40, 9), np.array([8, 0])) == [samples[48].image, samples[40].image]
        assert whole.column("id").to_pylist() == [s.id for s in samples]
        assert manifest.group_of(np.array([0, 15, 16, 149])).tolist() == [0, 0, 1, len(manifest.groups) - 1]
        assert manifest.position(0) == f"{manifest.shards[0].name} row 0"
        assert manifest.position(149) == f"{manifest.shards[-1].name} row {manifest.shards[-1].rows - 1}"

    def test_ids(self, tmp_path: Path) -> None:
        numbered = write(some(60, ids="int"), tmp_path / "int")
        assert read_labels(numbered)[1].tolist() == [7 * row + 3 for row in range(60)]
        named = write(some(60, ids="str"), tmp_path / "str")
        ids = read_labels(named)[1]
        assert ids.tolist() == [text_id(f"image {row}".encode()) for row in range(60)]
        assert len(set(ids.tolist())) == 60 and ids.min() >= 0
        plain = write(some(60), tmp_path / "none")
        expected = [shard << 32 | row for shard, info in enumerate(plain.shards) for row in range(info.rows)]
        assert read_labels(plain)[1].tolist() == expected
        for manifest in (numbered, named, plain):
            rows = read_rows(manifest, np.array([59, 0, 30]))
            assert rows.ids.tolist() == read_labels(manifest)[1][[59, 0, 30]].tolist()

    def test_the_manifest_counts(self, tmp_path: Path) -> None:
        samples = some(90)
        manifest = write(samples, tmp_path / "set", mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
        again = read_manifest(str(tmp_path / "set"))
        assert again.class_counts == tuple(np.bincount([s.label for s in samples], minlength=3).tolist())
        assert again.image_bytes == sum(len(s.image) for s in samples)
        assert again.class_names == NAMES and again.num_classes == 3
        assert again.mean == (0.1, 0.2, 0.3) and again.std == (1.0, 2.0, 3.0)
        assert pickle.loads(pickle.dumps(again)) == manifest
        said = json.loads((tmp_path / "set" / MANIFEST).read_text())
        import hashlib

        for shard in said["shards"]:
            content = (tmp_path / "set" / shard["name"]).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])

    @settings(max_examples=20, deadline=None)
    @given(rows=st.integers(1, 70), shard_bytes=st.integers(1, 4000), group=st.integers(1, 30), seed=st.integers(0, 9))
    def test_any_layout_holds_the_same_rows(
        self, tmp_path_factory: pytest.TempPathFactory, rows: int, shard_bytes: int, group: int, seed: int
    ) -> None:
        folder = tmp_path_factory.mktemp("layout")
        samples = some(rows, seed)
        manifest = write(samples, folder / "set", shard_bytes=shard_bytes, row_group_rows=group)
        read = read_rows(read_manifest(manifest.uri), np.arange(rows))
        assert read.images == [s.image for s in samples]
        assert all(sum(shard.row_groups) == shard.rows for shard in manifest.shards)
        assert max(max(shard.row_groups) for shard in manifest.shards) <= group
        (folder / "set" / MANIFEST).unlink()
        footers = read_manifest(manifest.uri)
        assert footers.shards == manifest.shards and footers.columns == manifest.columns

    def test_hugging_face_reads_the_layout(self, tmp_path: Path) -> None:
        manifest = write(some(20, ids="str"), tmp_path / "set", split="validation")
        assert manifest.shards[0].name == "validation-00000-of-00001.parquet"
        file = pq.ParquetFile(tmp_path / "set" / manifest.shards[0].name)
        schema = file.schema_arrow
        assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        assert schema.field("label").type == pa.int64()
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        assert features["label"] == {"names": list(NAMES), "_type": "ClassLabel"}
        assert features["image"] == {"_type": "Image"}
        assert file.metadata.row_group(0).column(0).compression == "UNCOMPRESSED"
