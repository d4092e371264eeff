"""Sources, and a set, in object storage that fails, is far away, or is Google's: the right bytes or one clear error."""

from __future__ import annotations

import gzip
import secrets
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdray.data.footer_cache import FOOTERS
from kdray.data.manifest import read_manifest
from kdray.data.pack.collection import BadItem, open_collections
from kdray.data.pack.execute import pack, plan_packing
from kdray.data.pack.options import PackOptions
from kdray.data.pack.verify import verify
from kdray.data.reader import read_rows, text_id
from kdray.errors import DataError, StoreError
from kdray.store import Store, retry
from tests.data.pack import test_official, test_parquet, test_webdataset
from tests.data.pack.archives import Tree, expected, flowers, images, plant, read_all, read_source, tar
from tests.data.pack.pictures import collection, contents, write_pictures
from tests.data.pack.test_resume import Died, dying
from tests.servers.faulty import Faulty, Rule, refuse

SOURCES: dict[str, tuple[Tree, object]] = {
    "imagefolder": (flowers(), {"train": expected(flowers())}),
    "tar": ({"x.tar": tar(flowers())}, {"train": expected(flowers())}),
    "packed": ({"x.tar.gz": gzip.compress(tar(flowers()))}, {"train": expected(flowers())}),
    "webdataset": (
        {"train-0.tar": tar(test_webdataset.samples([2, 0, 1]))},
        {"train": test_webdataset.given([2, 0, 1])},
    ),
    "zip": ({"tiny-imagenet-200.zip": test_official.zipped(test_official.tiny())}, test_official.TINY),
    "parquet": (test_parquet.hub(), test_parquet.HUB),
}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No footer is known yet, and pauses are short."""
    FOOTERS.clear()
    monkeypatch.setattr(retry, "PATIENCE", retry.Patience(tries=4, first_s=0.02, longest_s=0.1, total_s=30))


@pytest.mark.parametrize("kind", SOURCES)
def test_on_google_cloud_storage(gcs: str, kind: str) -> None:
    tree, right = SOURCES[kind]
    root = f"{gcs}/sources/{kind}"
    plant(root, tree)
    assert read_source(root) == right


@pytest.mark.parametrize("at", [1, 4, 9])
def test_packing_to_google_cloud_storage(gcs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Stopped on the way, gone on with, verified, and read back: the set that a local packing makes."""
    source = write_pictures(tmp_path / "pictures", 60)
    options = PackOptions(shard_bytes=20_000, mean_std=True)
    pack(collection(source), str(tmp_path / "whole"), options, workers=0)
    uri = f"{gcs}/packed/{at}"
    with monkeypatch.context() as patch:
        dying(patch, at, False)
        with pytest.raises(Died):
            pack(collection(source), uri, options, workers=0)
    with pytest.raises(DataError, match="`kdray shard` goes on"):
        read_manifest(uri)
    plan, there = plan_packing(collection(source), uri, options)
    assert plan is not None and there.startswith("begun: ")
    manifest = pack(collection(source), uri, options, workers=0)
    assert plan.shards == len(manifest.shards) > 3
    local = contents(tmp_path / "whole")
    assert {name: Store(uri).read_bytes(name) for name in Store(uri).list()} == local
    verdict = verify(uri, workers=0)
    assert verdict.good and verdict.own and verdict.rows == 60
    assert read_manifest(uri) == manifest
    pictures = {text_id(path.name.encode()): path.read_bytes() for path in source.iterdir()}
    rows = read_rows(manifest, np.arange(60))
    assert rows.images == [pictures[number] for number in rows.ids.tolist()] and len(set(rows.ids.tolist())) == 60
    assert plan_packing(collection(source), uri, options) == (None, "packed already")


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(
    "rule",
    [
        refuse(503, "SlowDown", times=3, path="/sources/"),  # not listings: pyarrow is slow to retry
        Rule("reset-body", times=2, path="/sources/"),
        Rule("cut", times=2, path="/sources/"),
    ],
    ids=["503", "reset", "cut"],
)
def test_faults_that_pass(proxy: Faulty, kind: str, rule: Rule) -> None:
    """Met while files are looked into, and again while images are read."""
    tree, right = SOURCES[kind]
    root = f"s3://kdray-tests/sources/{secrets.token_hex(4)}"
    plant(root, tree)
    proxy.reset(replace(rule))
    with open_collections(root) as collections:
        looked_into = proxy.faults()
        proxy.reset(replace(rule))
        assert {one.split: read_all(one) for one in collections} == right
        assert looked_into or kind == "imagefolder"
        assert proxy.faults() or collections[0].here


@pytest.mark.parametrize("kind", ["imagefolder", "tar", "parquet"])
def test_a_storage_that_stays_down_is_one_error_and_no_bad_image(proxy: Faulty, kind: str) -> None:
    root = f"s3://kdray-tests/sources/{secrets.token_hex(4)}"
    plant(root, SOURCES[kind][0])
    with open_collections(root) as collections:
        proxy.reset(refuse(503, "SlowDown", times=None, path="sources"))
        with pytest.raises(StoreError, match="answers SlowDown"):
            list(collections[0].read(collections[0].items))
        proxy.reset()
        assert not any(isinstance(got, BadItem) for got in collections[0].read(collections[0].items))


def test_images_of_a_tar_are_few_requests_and_many_at_once(proxy: Faulty, tmp_path: Path) -> None:
    tree = {f"c/{number:03d}.jpg": images()[number % 12] for number in range(300)}
    root = f"s3://kdray-tests/sources/{secrets.token_hex(4)}"
    plant(root, {"x.tar": tar(tree)} | {f"folder/{path}": data for path, data in tree.items()})
    with open_collections(f"{root}/x.tar") as (collection,):
        proxy.reset()
        assert [got for _, got in read_all(collection).values()] == list(tree.values())
        assert proxy.count("GET") == 1
    with open_collections(f"{root}/folder") as (collection,):
        proxy.reset(latency_s=0.05)
        assert [got for _, got in read_all(collection).values()] == list(tree.values())
        assert proxy.count("GET") == 300
        assert proxy.most_in_flight > 8
