"""`--fresh` deletes what the packing there names as its own, after a look at all of it, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdray.data.manifest import read_manifest
from kdray.data.manifest_json import MANIFEST, WRITING
from kdray.data.pack.execute import pack
from kdray.data.pack.options import PackOptions
from kdray.data.pack.rows_file import ROWS_FILE
from kdray.errors import DataError
from kdray.store import Store
from tests.data.pack.pictures import Pictures, collection, contents, write_pictures
from tests.data.pack.test_resume import Died, dying

OPTIONS = PackOptions(shard_bytes=5_000)
OTHER = PackOptions(shard_bytes=9_000)
FOREIGN = "other-00000-of-00001.parquet"


@pytest.fixture
def source(tmp_path: Path) -> Pictures:
    return collection(write_pictures(tmp_path / "source", 24))


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "set"


def begun(source: Pictures, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a packing that has some of its shards."""
    with monkeypatch.context() as patch:
        dying(patch, 7, False)
        with pytest.raises(Died):
            pack(source, str(dest), OPTIONS, workers=0)
    assert list(dest.glob("*.parquet")) and (dest / WRITING).exists()


@pytest.mark.parametrize("whole", [True, False])
def test_the_files_of_others_stop_it_before_anything_is_deleted(
    source: Pictures, dest: Path, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if whole:
        pack(source, str(dest), OPTIONS, workers=0)
    else:
        begun(source, dest, monkeypatch)
    (dest / FOREIGN).write_bytes(b"mine")
    before = contents(dest)
    with pytest.raises(DataError, match=rf"not of the packing there: {FOREIGN}; nothing was deleted"):
        pack(source, str(dest), OTHER, workers=0, fresh=True)
    assert contents(dest) == before
    (dest / FOREIGN).rename(dest / "mine.txt")
    shards = [shard.name for shard in pack(source, str(dest), OTHER, workers=0, fresh=True).shards]
    assert sorted(contents(dest)) == sorted([MANIFEST, ROWS_FILE, "mine.txt", *shards])


def test_a_deletion_that_was_cut_off_is_gone_on_with(
    source: Pictures, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(source, str(dest), OPTIONS, workers=0)
    shards = len(list(dest.glob("*.parquet")))
    with monkeypatch.context() as patch:
        dying(patch, 6, False)  # the marker's write and rename, and four deletions
        with pytest.raises(Died):
            pack(source, str(dest), OTHER, workers=0, fresh=True)
    left = list(dest.glob("*.parquet"))
    assert 0 < len(left) < shards and not (dest / MANIFEST).exists()
    with pytest.raises(DataError, match="--fresh"):
        pack(source, str(dest), OTHER, workers=0)
    manifest = pack(source, str(dest), OTHER, workers=0, fresh=True)
    assert read_manifest(str(dest)) == manifest


def test_a_marker_without_a_plan_names_nothing(source: Pictures, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(source, dest, monkeypatch)
    said = json.loads((dest / WRITING).read_text())
    Store(str(dest)).write_json(WRITING, said | {"shards": "many"})
    before = contents(dest)
    with pytest.raises(DataError, match="nothing was deleted"):
        pack(source, str(dest), OTHER, workers=0, fresh=True)
    assert contents(dest) == before
