"""Reading from object storage that fails: the right rows or one clear error, never wrong or missing ones."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from kdray.data.feed import train_feed
from kdray.data.footer_cache import FOOTERS
from kdray.data.manifest import Manifest, ShardColumns, read_manifest
from kdray.data.reader import Rows, read_labels, read_rows
from kdray.data.shards import write_shards
from kdray.data.writer import Sample
from kdray.errors import DataError, KdrayError, StoreError
from kdray.store import Store, retry, s3_clients
from tests.conftest import S3, point_to
from tests.data.small import data, squares
from tests.servers.faulty import Faulty, Rule, refuse
from tests.store.telling import one_line

ROWS = 240
SHARD = r"\.parquet"
FAULTS = {
    "500": lambda **where: refuse(500, "InternalError", **where),
    "503": lambda **where: refuse(503, "SlowDown", **where),
    "reset": lambda **where: Rule("reset", **where),
    "reset-body": lambda **where: Rule("reset-body", **where),
    "cut": lambda **where: Rule("cut", **where),
    "hang": lambda **where: Rule("hang", **where),
    "stall": lambda **where: Rule("stall", **where),
}


def image(row: int) -> bytes:
    return np.random.default_rng(row).bytes(2000 + row)  # no image at all: nothing here decodes


@pytest.fixture(scope="module")
def written(real_s3_server: S3) -> Manifest:
    """Shards of 4 or so row groups on the server, written past the proxy."""
    with pytest.MonkeyPatch.context() as patch:
        point_to(real_s3_server, patch)
        samples = (Sample(image(row), row % 7, f"row-{row}") for row in range(ROWS))
        uri = real_s3_server.uri(f"faults/{secrets.token_hex(4)}")
        return write_shards(samples, uri, shard_bytes=160_000, row_group_rows=16)


@pytest.fixture(autouse=True)
def cold_and_hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No footer is known yet, pauses and timeouts are short."""
    FOOTERS.clear()
    monkeypatch.setattr(retry, "PATIENCE", retry.Patience(tries=4, first_s=0.02, longest_s=0.1, total_s=30))
    monkeypatch.setattr(retry, "_last_said", [-100.0, 0.0])
    monkeypatch.setitem(s3_clients._WORK, "read_timeout", 2)


def assert_right(rows: Rows, asked: np.ndarray, ids: np.ndarray) -> None:
    """Each row is the one that was written, told by its content, id and label."""
    assert rows.index.tolist() == asked.tolist()
    assert rows.labels.tolist() == [row % 7 for row in asked.tolist()]
    assert rows.ids.tolist() == ids[asked].tolist()
    for content, row in zip(rows.images, asked.tolist(), strict=True):
        assert hashlib.sha256(content).digest() == hashlib.sha256(image(row)).digest()


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    from kdray.data.reader import text_id

    return np.array([text_id(f"row-{row}".encode()) for row in range(ROWS)])


def shuffled() -> np.ndarray:
    return np.random.default_rng(0).permutation(ROWS)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_passes_leaves_the_right_rows(proxy: Faulty, written: Manifest, ids: np.ndarray, fault: str) -> None:
    proxy.reset(FAULTS[fault](path=SHARD, skip=1, times=2), FAULTS[fault](path=SHARD, skip=9, times=2))
    assert_right(read_rows(written, shuffled()), shuffled(), ids)
    assert sum(proxy.faults().values()) == 4
    needed = len(written.shards) + len(written.groups)
    assert proxy.count("GET", SHARD) >= needed + 4


@pytest.mark.parametrize("fault", ["503", "reset-body", "cut"])
def test_opening_a_set_and_its_labels_too(proxy: Faulty, written: Manifest, ids: np.ndarray, fault: str) -> None:
    shards = FAULTS[fault](path=SHARD, times=2)
    rules = [shards, *(FAULTS[fault](path=path, times=1) for path in ("list-type=2", "manifest.json"))]
    proxy.reset(*rules)
    manifest = read_manifest(written.folder)
    assert manifest.fingerprint == written.fingerprint and shards.hit == 0, "the manifest's word is enough"
    labels, found = read_labels(manifest)
    assert labels.tolist() == [row % 7 for row in range(ROWS)]
    assert found.tolist() == ids.tolist()
    assert [rule.hit for rule in rules] == [2, 1, 1]


@pytest.mark.parametrize("fault", ["503", "reset-body", "cut"])
def test_a_set_without_manifest_too(proxy: Faulty, real_s3: S3, written: Manifest, ids: np.ndarray, fault: str) -> None:
    folder = real_s3.uri(f"footers/{secrets.token_hex(4)}")
    for shard in written.shards:
        Store(folder).write_bytes(shard.name, Store(written.folder).read_bytes(shard.name))
    footers = FAULTS[fault](path=SHARD, times=3)
    rules = [footers, FAULTS[fault](path="list-type=2", times=1)]
    proxy.reset(*rules)
    manifest = read_manifest(folder, ShardColumns(id="id"))
    assert manifest.shards == written.shards
    assert [rule.hit for rule in rules] == [3, 1]
    rules = [FAULTS[fault](path=SHARD, times=3)]
    proxy.reset(*rules)
    labels, found = read_labels(manifest)
    assert labels.tolist() == [row % 7 for row in range(ROWS)] and found.tolist() == ids.tolist()
    assert rules[0].hit == 3


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "ExpiredToken", ["the session token has expired"]),
        (403, "AccessDenied", ["no permission to read", "s3:GetObject"]),
        (403, "InvalidAccessKeyId", ["the access key is not known"]),
        (404, "NoSuchKey", ["is missing", "Copy the set again"]),
        (404, "NoSuchBucket", ["bucket 'kdray-tests' does not exist"]),
    ],
)
def test_what_does_not_pass_is_told_at_once(
    proxy: Faulty, written: Manifest, status: int, code: str, words: list[str]
) -> None:
    read_rows(written, np.array([0]))
    proxy.reset(refuse(status, code, path=SHARD, times=None))
    with pytest.raises(KdrayError) as error:
        read_rows(written, np.array([0]))
    one_line(error, written.shard_uri(0), *words)
    assert proxy.count("GET", SHARD) == 1


def test_a_server_that_stays_ill_is_given_up(
    proxy: Faulty, written: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.reset(refuse(503, "SlowDown", path=SHARD, times=None))
    with caplog.at_level(logging.WARNING), pytest.raises(StoreError) as error:
        read_rows(written, shuffled())
    one_line(error, "s3://", "answers SlowDown", "4 tries in", "the run continues")
    said = [record.getMessage() for record in caplog.records if "trying again" in record.getMessage()]
    assert len(said) == 1, "a hundred requests that fail together are one line"
    assert "503 SlowDown, trying again in 0.0 s (1 of 4)" in said[0]
    assert proxy.count("GET", SHARD) == 4 * len(written.shards), "each footer, and no row group without one"


def test_a_bit_that_flips_on_its_way_is_read_again(proxy: Faulty, written: Manifest, ids: np.ndarray) -> None:
    read_rows(written, np.arange(ROWS))  # footers
    proxy.reset(Rule("corrupt", path=SHARD, skip=2, times=1))
    assert_right(read_rows(written, np.arange(ROWS)), np.arange(ROWS), ids)
    assert proxy.faults() == {"corrupt": 1}


def test_a_bit_that_is_flipped_in_the_storage_is_told(proxy: Faulty, written: Manifest) -> None:
    read_rows(written, np.array([3]))
    proxy.reset(Rule("corrupt", path=SHARD, times=None))
    with pytest.raises(DataError) as error:
        read_rows(written, np.array([3]))
    one_line(error, written.shard_uri(0), "does not read", "CRC")
    assert proxy.count("GET", SHARD) == 2


def test_a_shard_that_changed_is_told(proxy: Faulty, written: Manifest, real_s3: S3) -> None:
    folder = real_s3.uri(f"changed/{secrets.token_hex(4)}")
    for name in Store(written.folder).list():
        Store(folder).write_bytes(name, Store(written.folder).read_bytes(name))
    manifest = read_manifest(folder)
    read_rows(manifest, np.array([0, ROWS - 1]))
    whole = Store(folder).read_bytes(manifest.shards[0].name)
    for content in (whole[: len(whole) // 2], whole[:100], whole + b"x"):
        Store(folder).write_bytes(manifest.shards[0].name, content)
        with pytest.raises(DataError, match=f"instead of {len(whole)}: cut off or changed"):
            read_rows(manifest, np.array([40]))


class TestRequests:
    def test_one_for_each_row_group_and_none_to_ask(self, proxy: Faulty, written: Manifest) -> None:
        read_rows(written, shuffled())
        assert proxy.count("GET", SHARD) == len(written.shards) + len(written.groups), "footers are read once"
        assert proxy.count("HEAD") == 0 and proxy.count() == proxy.count("GET")
        proxy.reset()
        read_rows(written, np.arange(20, 70))
        assert proxy.count() == len(np.unique(written.group_of(np.arange(20, 70))))

    def test_an_epoch_of_the_stream(self, proxy: Faulty, real_s3: S3) -> None:
        """Every row group of the epoch is asked for once, every footer once, and nothing else."""
        manifest = squares(real_s3.uri(f"stream/{secrets.token_hex(4)}"), 300)
        settings = data(manifest, mode="stream", shuffle_window_bytes=manifest.image_bytes // 3)
        feed = train_feed(settings, manifest, np.arange(300), batch=30, seed=1)
        for epoch, footers in ((0, len(manifest.shards)), (1, 0)):
            proxy.reset(latency_s=0.01)
            seen = sorted(row for batch in feed.epoch(epoch) for row in batch.index.tolist())
            assert seen == list(range(300))
            assert proxy.count() == proxy.count("GET", SHARD) == len(manifest.groups) + footers

    def test_they_are_under_way_together(self, proxy: Faulty, written: Manifest) -> None:
        proxy.reset(latency_s=0.05)
        read_rows(written, shuffled())
        assert proxy.most_in_flight >= 8

    def test_a_set_is_opened_in_a_few(self, proxy: Faulty, written: Manifest) -> None:
        read_manifest(written.folder)
        assert proxy.count() <= 5, [asked.path for asked in proxy.asked]
        assert proxy.count("GET", SHARD) == 0


class TestCredentials:
    OLD = "kdray-old-key"

    @pytest.fixture
    def keys(self, proxy: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A credentials file in place of the variables; the proxy takes the old key for expired."""
        proxy.reset(refuse(403, "ExpiredToken", key=self.OLD, times=None))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        path = tmp_path / "credentials"
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
        self.write(path, self.OLD, "secret-of-old")
        return path

    @staticmethod
    def write(path: Path, key: str, secret: str) -> None:
        path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")

    def test_a_file_that_was_replaced(
        self, keys: Path, proxy: Faulty, real_s3: S3, written: Manifest, ids: np.ndarray
    ) -> None:
        with pytest.raises(StoreError, match="the session token has expired") as error:
            read_rows(written, shuffled())
        assert "secret-of-old" not in str(error.value) and self.OLD not in str(error.value)
        self.write(keys, real_s3.access_key, real_s3.secret_key)
        assert_right(read_rows(written, shuffled()), shuffled(), ids)
        assert {asked.key for asked in proxy.asked} == {self.OLD, real_s3.access_key}

    def test_a_file_that_is_replaced_while_a_request_is_under_way(
        self, keys: Path, proxy: Faulty, real_s3: S3, written: Manifest, ids: np.ndarray
    ) -> None:
        """The old keys are refused when the new ones are there already."""
        rule = refuse(403, "ExpiredToken", key=self.OLD, times=None)
        rule.then = lambda: self.write(keys, real_s3.access_key, real_s3.secret_key)
        proxy.reset(rule)
        assert_right(read_rows(written, shuffled()), shuffled(), ids)
        assert proxy.faults()["ExpiredToken"] >= 1

    def test_a_file_that_was_replaced_and_looks_the_same(
        self, keys: Path, real_s3: S3, written: Manifest, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on a file system with coarse clocks: it is read again when the server refuses the old keys."""
        monkeypatch.setattr(s3_clients, "_state", lambda path: path)
        with pytest.raises(StoreError, match="the session token has expired"):
            read_rows(written, shuffled())
        self.write(keys, real_s3.access_key, real_s3.secret_key)
        assert_right(read_rows(written, shuffled()), shuffled(), ids)

    def test_listing_sees_it_too(self, keys: Path, real_s3: S3, written: Manifest) -> None:
        with pytest.raises(StoreError, match=r"no permission to (read|list).*renew them if they are temporary"):
            read_manifest(written.folder)
        self.write(keys, real_s3.access_key, real_s3.secret_key)
        assert read_manifest(written.folder).fingerprint == written.fingerprint

    def test_variables_that_were_set_anew(
        self,
        keys: Path,
        real_s3: S3,
        written: Manifest,
        ids: np.ndarray,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with pytest.raises(StoreError, match="the session token has expired"):
            read_rows(written, shuffled())
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", real_s3.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", real_s3.secret_key)
        assert_right(read_rows(written, shuffled()), shuffled(), ids)

    def test_a_process_that_gives_keys_for_a_while(
        self, proxy: Faulty, real_s3: S3, written: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As an instance's role does: keys with a date; boto3 asks again before they expire."""
        calls, script, config = tmp_path / "calls", tmp_path / "keys", tmp_path / "config"
        answer = {"Version": 1, "AccessKeyId": real_s3.access_key, "SecretAccessKey": real_s3.secret_key}
        script.write_text(
            f"#!{sys.executable}\nimport datetime, json\nopen({str(calls)!r}, 'a').write('x')\n"
            "soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=5)\n"
            f"print(json.dumps({json.dumps(answer)} | {{'Expiration': soon.isoformat()}}))\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        config.write_text(f"[default]\ncredential_process = {script}\n")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        for row in range(3):
            read_rows(written, np.array([row]))
        assert len(calls.read_text()) >= 3, "5 minutes are less than boto3 lets pass"
        assert {asked.key for asked in proxy.asked} == {real_s3.access_key}
