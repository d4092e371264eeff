"""A shard that is replaced while a run reads it: one clear error, though the new one has the same size."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kdray.data.feed import train_feed
from kdray.data.footer_cache import FooterCache, Key, Known
from kdray.data.manifest import Manifest, read_manifest
from kdray.data.reader import read_labels, read_rows
from kdray.data.shards import write_shards
from kdray.data.writer import Sample
from kdray.errors import DataError
from kdray.store import Store
from tests.conftest import S3
from tests.data.small import data, squares
from tests.servers.faulty import Faulty
from tests.store.telling import one_line

ROWS = 60


@pytest.fixture(params=["local", "real_s3", "gs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = f"replaced/{secrets.token_hex(4)}"
    if request.param == "real_s3":
        return str(request.getfixturevalue("real_s3").uri(name))
    return f"{request.getfixturevalue('gcs')}/{name}" if request.param == "gs" else str(tmp_path)


def write(folder: str, changed: int | None = None) -> Manifest:
    """A set of one shard in which one row's label may be another."""
    samples = [Sample(bytes([row]) * 500, (row + (row == changed)) % 5, row) for row in range(ROWS)]
    return write_shards(samples, folder, shard_bytes=1 << 20, row_group_rows=10)


def test_another_label_in_as_many_bytes(folder: str) -> None:
    manifest = write(f"{folder}/set")
    for row in range(20, ROWS):  # the length of a page's checksum depends on its value
        other = write(f"{folder}/other-{row}", changed=row)
        if other.shards[0].bytes == manifest.shards[0].bytes:
            break
    content, old = (Store(one.folder).read_bytes(one.shards[0].name) for one in (other, manifest))
    assert len(content) == len(old) and content != old
    read_rows(manifest, np.array([0]))
    Store(manifest.folder).write_bytes(manifest.shards[0].name, content)
    with pytest.raises(DataError) as error:
        read_rows(manifest, np.array([row]))
    one_line(error, manifest.shard_uri(0), "was replaced since this run began to read it", "start again")
    # A run that is started again in this process, as in a notebook, reads what is there now.
    assert read_labels(read_manifest(f"{manifest.folder}/*.parquet"))[0][row] == (row + 1) % 5


def test_in_the_middle_of_an_epoch(real_s3: S3) -> None:
    manifest = squares(real_s3.uri(f"replaced/{secrets.token_hex(4)}"), 100)
    settings = data(manifest, mode="stream", shuffle_window_bytes=manifest.image_bytes // 7)
    batches = train_feed(settings, manifest, np.arange(100), batch=4, seed=1).epoch(0)
    next(batches)
    store = Store(manifest.folder)
    content = bytearray(store.read_bytes(manifest.shards[0].name))
    content[len(content) // 2] ^= 1
    store.write_bytes(manifest.shards[0].name, bytes(content))
    with pytest.raises(DataError, match=r"\.parquet: was replaced since"):
        list(batches)


def test_it_takes_no_request(proxy: Faulty, real_s3: S3) -> None:
    manifest = write(real_s3.uri(f"replaced/{secrets.token_hex(4)}"))
    proxy.reset()
    read_rows(manifest, np.arange(ROWS))
    assert proxy.count() == len(manifest.shards) + len(manifest.groups)


class TestFooterCache:
    TAIL_OF = staticmethod(lambda manifest: Path(manifest.shard_uri(0)).read_bytes())

    def get(self, cache: FooterCache, tail: bytes, number: int, read: list[int]) -> Known:
        def fetch() -> tuple[bytes, str]:
            read.append(number)
            return tail, "1"

        key: Key = (f"shard-{number}", 1, "set")
        return cache.get(key, fetch)

    def test_those_used_last_are_kept(self, tmp_path: Path) -> None:
        tail = self.TAIL_OF(write(str(tmp_path)))
        read: list[int] = []
        one = len(self.get(FooterCache(), tail, 0, []).deflated)
        cache = FooterCache(kept_bytes=3 * one)
        for number in (0, 1, 2, 0, 3, 0, 2, 1):
            self.get(cache, tail, number, read)
        assert read == [0, 1, 2, 3, 1], "0 was used again before 3 came, so 1 had to go"

    def test_those_of_ten_thousand_shards_fit(self, tmp_path: Path) -> None:
        """Of shards of 1,300 photographs in row groups of 64, as ImageNet's."""
        known = self.get(FooterCache(), self.TAIL_OF(write(str(tmp_path))), 0, [])
        a_row_group = len(known.deflated) / known.metadata.num_row_groups
        assert 10_000 * 20 * a_row_group < FooterCache()._most

    def test_what_does_not_parse_is_asked_for_again(self, tmp_path: Path) -> None:
        tail = self.TAIL_OF(write(str(tmp_path)))
        cache = FooterCache()
        read: list[int] = []
        with pytest.raises(pa.ArrowException):
            self.get(cache, tail[:-20], 0, read)
        assert self.get(cache, tail, 0, read).metadata.num_rows == ROWS
        assert read == [0, 0]
