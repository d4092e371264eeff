"""Shards: what is written is read back, foreign sets read as they are, and damage is told before any training."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.data.manifest_json import MANIFEST, WRITING
from kdray.data.reader import text_id
from kdray.data.shards import (
    Manifest,
    Sample,
    ShardColumns,
    images_at,
    iter_rows,
    read_labels,
    read_manifest,
    read_row_group,
    read_rows,
    write_shards,
)
from kdray.errors import DataError, KdrayError, StoreError
from kdray.store import Store
from tests.conftest import S3

NAMES = ("cat", "dog", "owl")


def some(count: int, seed: int = 0, ids: str | None = None) -> list[Sample]:
    rng = np.random.default_rng(seed)
    make = {None: lambda _: None, "int": lambda row: 7 * row + 3, "str": lambda row: f"image {row}"}[ids]
    return [Sample(rng.bytes(int(rng.integers(1, 500))), int(rng.integers(3)), make(row)) for row in range(count)]


def write(samples: Sequence[Sample], dest: Path | str, **more: object) -> Manifest:
    options = {"class_names": NAMES, "shard_bytes": 10_000, "row_group_rows": 16} | more
    return write_shards(samples, str(dest), **options)  # type: ignore[arg-type]


def parquet(path: Path, columns: dict[str, object], metadata: dict[str, str] | None = None, **options: object) -> Path:
    """A file that another program might have written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path, **{"row_group_size": 4, **options})
    return path


def images(count: int) -> pa.Array:
    return pa.array([bytes([number]) * (number + 1) for number in range(count)], pa.binary())


def structs(count: int) -> pa.Array:
    return pa.array([{"bytes": bytes([number]) * (number + 1), "path": f"{number}.png"} for number in range(count)])


def told(error: pytest.ExceptionInfo[KdrayError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


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


class TestObjectStore:
    def test_a_set_in_a_bucket(self, s3: S3) -> None:
        samples = some(120, ids="int")
        manifest = write(samples, s3.uri("shards/set"))
        assert manifest.uri == s3.uri("shards/set")
        names = [shard.name for shard in manifest.shards]
        assert Store(manifest.uri).list() == [MANIFEST, *names]
        assert read_manifest(manifest.uri) == manifest
        index = np.random.default_rng(0).permutation(120)
        assert read_rows(manifest, index).images == [samples[i].image for i in index]
        assert read_labels(manifest)[1].tolist() == [s.id for s in samples]

    def test_globs_and_single_files(self, s3: S3, tmp_path: Path) -> None:
        for number in range(3):
            path = parquet(tmp_path / f"f{number}", {"image": images(5), "label": [number] * 5})
            Store(s3.uri("foreign")).put_file(f"train-0000{number}-of-00003.parquet", path)
        Store(s3.uri("foreign")).put_file("test-00000-of-00001.parquet", path)
        assert read_manifest(s3.uri("foreign/train-*.parquet")).num_samples == 15
        assert read_manifest(s3.uri("foreign/test-00000-of-00001.parquet")).num_samples == 5
        with pytest.raises(DataError, match="holds several sets"):
            read_manifest(s3.uri("foreign"))

    def test_nothing_there(self, s3: S3) -> None:
        with pytest.raises(DataError, match="does not exist"):
            read_manifest(s3.uri("nowhere"))
        with pytest.raises(StoreError, match="bucket 'no-such-bucket' does not exist"):
            read_manifest("s3://no-such-bucket/x")

    def test_a_write_that_is_cut_off_is_no_set(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        uri = s3.uri("shards/cut")
        plain, uploads = Store.put_file, []

        def dies(self: Store, rel: str, path: str) -> None:
            uploads.append(rel)
            if len(uploads) == 3:
                raise StoreError("endpoint does not answer", where=rel)
            plain(self, rel, path)

        monkeypatch.setattr(Store, "put_file", dies)
        with pytest.raises(StoreError):
            write(some(200), uri)
        monkeypatch.undo()
        s3_names = Store(uri).list()
        assert WRITING in s3_names and MANIFEST not in s3_names and len(s3_names) == 3
        with pytest.raises(DataError) as error:
            read_manifest(uri)
        told(error, uri, "cut off", "write the set again")
        with pytest.raises(DataError):
            read_manifest(uri + "/train-*.parquet")
        other = write(some(50, seed=1), uri)  # the rest of the first is cleared away
        assert read_manifest(uri) == other
        assert WRITING not in Store(uri).list()

    def test_another_set_is_not_overwritten(self, s3: S3) -> None:
        uri = s3.uri("shards/kept")
        first = write(some(30), uri)
        assert write(some(30), uri) == first
        with pytest.raises(DataError, match="something else is there already"):
            write(some(30, seed=1), uri)
        Store(s3.uri("shards/mine")).write_bytes("notes.txt", b"")
        with pytest.raises(DataError, match="something else"):
            write(some(30), s3.uri("shards/mine"))
        assert read_manifest(uri) == first


class TestWholeOrAbsent:
    def test_the_same_set_twice_is_one(self, tmp_path: Path) -> None:
        first = write(some(50), tmp_path / "set")
        before = (tmp_path / "set" / MANIFEST).stat().st_mtime_ns
        assert write(some(50), tmp_path / "set") == first
        assert (tmp_path / "set" / MANIFEST).stat().st_mtime_ns == before
        assert os.listdir(tmp_path) == ["set"]

    @pytest.mark.parametrize("change", ["seed", "names", "layout", "mean"])
    def test_another_set_is_refused(self, tmp_path: Path, change: str) -> None:
        write(some(50), tmp_path / "set")
        other: dict[str, dict[str, object]] = {
            "seed": {},
            "names": {"class_names": ("a", "b", "c")},
            "layout": {"row_group_rows": 8},
            "mean": {"mean": (0.5, 0.5, 0.5)},
        }
        with pytest.raises(DataError) as error:
            write(some(50, seed=int(change == "seed")), tmp_path / "set", **other[change])
        told(error, str(tmp_path / "set"), "something else", "another folder")
        assert os.listdir(tmp_path) == ["set"]

    def test_an_empty_folder_is_taken_and_a_filled_one_is_not(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        write(some(5), tmp_path / "empty")
        (tmp_path / "filled").mkdir()
        (tmp_path / "filled" / "thesis.txt").write_text("")
        with pytest.raises(DataError, match="something else"):
            write(some(5), tmp_path / "filled")
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="a file stands where a folder should be"):
            write(some(5), tmp_path / "file")

    def test_samples_that_end_in_an_error_leave_nothing(self, tmp_path: Path) -> None:
        def broken() -> object:
            yield from some(100)
            raise RuntimeError("the source is gone")

        with pytest.raises(RuntimeError, match="the source is gone"):
            write(broken(), tmp_path / "deep" / "set")  # type: ignore[arg-type]
        assert os.listdir(tmp_path / "deep") == []

    def test_a_full_disk_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError) as error:
            write(some(50), tmp_path / "set")
        told(error, str(tmp_path / "set"), "no space left", "Free some space")
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("ending", ["limit", "kill"])
    def test_a_process_that_is_stopped_leaves_no_set(self, tmp_path: Path, ending: str) -> None:
        code = (
            "import os, signal, sys\n"
            "from kdray.data.shards import Sample, write_shards\n"
            "from kdray.errors import StoreError\n"
            "def samples():\n"
            "    for row in range(200):\n"
            "        if row == 150 and sys.argv[2] == 'kill': os.kill(os.getpid(), signal.SIGKILL)\n"
            "        yield Sample(os.urandom(2000), 0)\n"
            "try: write_shards(samples(), sys.argv[1], shard_bytes=100_000, row_group_rows=8)\n"
            "except StoreError as exc: print(exc)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "set"), ending],
            preexec_fn=lambda: (
                resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)) if ending == "limit" else None
            ),
            capture_output=True,
            text=True,
        )
        if ending == "limit":
            assert "larger than allowed" in done.stdout, done.stderr
            assert os.listdir(tmp_path) == []
        else:
            assert done.returncode == -9
        assert not (tmp_path / "set").exists()
        with pytest.raises(DataError, match="does not exist"):
            read_manifest(str(tmp_path / "set"))

    @pytest.mark.parametrize(
        ("samples", "words"),
        [
            ([], ["no samples"]),
            ([Sample(b"x", 3)], ["sample 0", "label 3", "0..2"]),
            ([Sample(b"x", 0), Sample(b"x", -1)], ["sample 1", "label -1"]),
            ([Sample(b"", 0)], ["sample 0", "empty image"]),
            ([Sample(b"x", 0, 1), Sample(b"x", 0)], ["sample 1", "id None"]),
            ([Sample(b"x", 0, 1), Sample(b"x", 0, "1")], ["sample 1", "id '1'"]),
        ],
    )
    def test_wrong_samples(self, tmp_path: Path, samples: list[Sample], words: list[str]) -> None:
        with pytest.raises(DataError) as error:
            write(samples, tmp_path / "set")
        told(error, *words)
        assert os.listdir(tmp_path) == []


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
