"""Sources in object storage that fails, is far away, or is Google's: the right bytes or one clear error."""

from __future__ import annotations

import gzip
import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from kdray.data.footer_cache import FOOTERS
from kdray.data.pack.collection import BadItem, open_collections
from kdray.errors import StoreError
from kdray.store import retry
from tests.data.pack import test_official, test_parquet, test_webdataset
from tests.data.pack.archives import Tree, expected, flowers, images, plant, read_all, read_source, tar
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
