"""A packing never writes into its source, and never deletes it, by whatever name it is reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdray.data.manifest import read_manifest
from kdray.data.pack.collection import open_collections
from kdray.data.pack.execute import pack, plan_packing
from kdray.data.pack.options import PackOptions
from kdray.errors import DataError
from kdray.store import Store
from tests.conftest import S3
from tests.data.pack.pictures import collection, contents, write_pictures

OTHER = PackOptions(order="source")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A packed set."""
    source = write_pictures(tmp_path / "source", 12)
    pack(collection(source), str(tmp_path / "out"), PackOptions(shard_bytes=5_000), workers=0)
    assert len(list((tmp_path / "out").glob("*.parquet"))) > 1
    return tmp_path / "out"


def refused(source: str, dest: str, says: str) -> None:
    with open_collections(source) as (listed,):
        for fresh in (False, True):
            with pytest.raises(DataError, match=says):
                pack(listed, dest, OTHER, workers=0, fresh=fresh)
        with pytest.raises(DataError, match=says):
            plan_packing(listed, dest, OTHER)


def test_a_file_or_a_pattern_in_the_folder(out: Path) -> None:
    before = contents(out)
    shard = next(out.glob("*.parquet"))
    refused(str(shard), str(out), "holds a file of the source")
    refused(str(out / "*-00000-of-*.parquet"), str(out), "lies inside the source")
    refused(str(out), str(out / "again"), "lies inside the source")
    assert contents(out) == before and read_manifest(str(out)).num_samples == 12


def test_links(out: Path, tmp_path: Path) -> None:
    before = contents(out)
    (tmp_path / "link").symlink_to(out)
    refused(str(tmp_path / "link"), str(out), "lies inside the source")
    refused(str(out), str(tmp_path / "link"), "lies inside the source")
    refused(str(tmp_path / "link"), str(out / "again"), "lies inside the source")
    shard = next(out.glob("*.parquet"))
    refused(str(tmp_path / "link" / shard.name), str(out), "holds a file of the source")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.parquet").symlink_to(shard)
    refused(str(tmp_path / "files"), str(out), "holds a file of the source")
    assert contents(out) == before


def test_beside_one_another_is_well(out: Path, tmp_path: Path) -> None:
    with open_collections(str(out)) as (listed,):
        assert pack(listed, str(tmp_path / "out-2"), OTHER, workers=0).num_samples == 12


def test_in_a_bucket(out: Path, s3: S3) -> None:
    store = Store(s3.uri("apart/out"))
    for name, data in contents(out).items():
        store.write_bytes(name, data)
    shard = next(name for name in store.list() if name.endswith(".parquet"))
    refused(store.path_uri(shard), store.uri, "holds a file of the source")
    assert store.read_bytes(shard) == contents(out)[shard]
