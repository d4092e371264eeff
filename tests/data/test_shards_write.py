"""Writing shards: whole or absent, in a folder or a bucket, whatever stops it."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdray.data.manifest_json import MANIFEST, WRITING
from kdray.data.shards import (
    Sample,
    read_labels,
    read_manifest,
    read_rows,
)
from kdray.errors import DataError, StoreError
from kdray.store import Store
from tests.conftest import S3
from tests.data.shard_sets import images, parquet, some, told, write


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
