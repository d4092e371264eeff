"""Trying again: how often, how long, what is said; and writing through faults."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    FlexibleChecksumError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from kdray.errors import StoreError
from kdray.store import Store, retry, s3_clients
from kdray.store.retry import Patience, passing, retrying
from tests.conftest import S3
from tests.servers.faulty import Faulty, Rule, refuse
from tests.store.telling import one_line

URI = "s3://bucket/key"


def answer(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")  # type: ignore[typeddict-item]


class Fails:
    """Work that fails `times` times."""

    def __init__(self, times: int, error: Exception) -> None:
        self.times, self.error, self.tried = times, error, 0

    def __call__(self) -> str:
        self.tried += 1
        if self.tried <= self.times:
            raise self.error
        return "done"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses, not waited for; time goes on by them alone."""
    pauses: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    monkeypatch.setattr(retry.time, "monotonic", lambda: 1000.0 + sum(pauses))
    monkeypatch.setattr(retry, "_last_said", [-100.0, 0.0])
    return pauses


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (answer(500, "InternalError"), "500 InternalError"),
        (answer(503, "SlowDown"), "503 SlowDown"),
        (answer(503, "503"), "503"),
        (answer(429, "TooManyRequests"), "429 TooManyRequests"),
        (answer(400, "RequestTimeout"), "400 RequestTimeout"),
        (answer(403, "AccessDenied"), None),
        (answer(403, "ExpiredToken"), None),
        (answer(404, "NoSuchKey"), None),
        (answer(507, "QuotaExceeded"), None),
        (answer(501, "NotImplemented"), None),
        (EndpointConnectionError(endpoint_url="http://x"), "no connection"),
        (ConnectTimeoutError(endpoint_url="http://x"), "no connection in time"),
        (ReadTimeoutError(endpoint_url="http://x"), "no answer in time"),
        (ResponseStreamingError(error="cut"), "the answer broke off"),
        (FlexibleChecksumError(error_msg="x"), "the answer does not fit its checksum"),
        (ClientError({"Error": {"Code": "InternalError"}}, "DeleteObjects"), "0 InternalError"),
        (ConnectionResetError(104, "reset"), "connection lost"),
        (NoCredentialsError(), None),
        (PermissionError(13, "no"), None),
        (OSError("google::cloud::Status(UNAVAILABLE: x)"), "UNAVAILABLE"),
        (OSError("google::cloud::Status(PERMISSION_DENIED: x)"), None),
        (OSError("google::cloud::Status(UNAVAILABLE: Could not create a OAuth2 token)"), None),
        (ValueError("ours"), None),
    ],
)
def test_what_may_pass(error: Exception, what: str | None) -> None:
    assert passing(error) == what


def test_pauses_double_and_are_never_the_same(clock: list[float]) -> None:
    work = Fails(7, answer(503, "SlowDown"))
    assert retrying(work, URI, "read") == "done"
    assert work.tried == 8
    for pause, most in zip(clock, (0.5, 1, 2, 4, 8, 16, 20), strict=True):
        assert most / 2 <= pause <= most
    again: list[float] = []
    clock_before = list(clock)
    clock.clear()
    retrying(Fails(7, answer(503, "SlowDown")), URI, "read")
    again = list(clock)
    assert again != clock_before


def test_it_ends_after_the_last_try(clock: list[float]) -> None:
    work = Fails(100, answer(503, "SlowDown"))
    with pytest.raises(StoreError) as error:
        retrying(work, URI, "read")
    assert work.tried == 8
    one_line(error, URI, "SlowDown", "8 tries in", "start again later")


def test_it_ends_when_its_time_is_over(clock: list[float]) -> None:
    def hangs() -> None:
        clock.append(30.0)
        raise ReadTimeoutError(endpoint_url="http://x")

    with pytest.raises(StoreError, match=r"\(6 tries in"):
        retrying(hangs, URI, "read", patience=Patience(total_s=190))
    assert sum(clock) <= 190 + 30, "the last try begins in time, and may hang"


def test_what_does_not_pass_comes_at_once_and_as_it_is(clock: list[float]) -> None:
    error = answer(403, "AccessDenied")
    with pytest.raises(ClientError) as raised:
        retrying(Fails(1, error), URI, "read")
    assert raised.value is error and clock == []


def test_one_line_every_few_seconds(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    hasty = Patience(tries=20, first_s=0.5, longest_s=0.5)
    with caplog.at_level(logging.WARNING):
        retrying(Fails(15, answer(503, "SlowDown")), URI, "read", patience=hasty)
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"{URI}: 503 SlowDown, trying again in 0.") and said[0].endswith("s (1 of 20)")
    assert 2 <= len(said) <= 4, said
    assert "more retries since the last line" in said[1]


def test_a_users_draws_are_left_alone(clock: list[float]) -> None:
    import random

    random.seed(1)
    expected = random.random()
    random.seed(1)
    retrying(Fails(3, answer(503, "SlowDown")), URI, "read")
    assert random.random() == expected


class TestWriting:
    @pytest.fixture(autouse=True)
    def hasty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retry, "PATIENCE", Patience(tries=4, first_s=0.02, longest_s=0.1))
        monkeypatch.setitem(s3_clients._WORK, "read_timeout", 2)

    @pytest.mark.parametrize(
        "rule",
        [
            refuse(500, "InternalError", method="PUT", path="/fault", times=2),
            refuse(503, "SlowDown", method="PUT", path="/fault", times=2),
            Rule("reset", method="PUT", path="/fault", times=2),
            Rule("hang", method="PUT", path="/fault", times=1),
        ],
        ids=lambda rule: rule.code if rule.fault == "refuse" else rule.fault,
    )
    def test_small_files(self, proxy: Faulty, real_s3: S3, tmp_path: Path, rule: Rule) -> None:
        store = Store(real_s3.uri(f"fault/{tmp_path.name}"))
        proxy.reset(rule)
        data = os.urandom(100_000)
        store.write_bytes("x", data)
        assert store.read_bytes("x") == data
        assert sum(proxy.faults().values()) == rule.times
        assert proxy.count("PUT") >= 1 + (rule.times or 0)

    def test_parts_of_a_large_one(self, proxy: Faulty, real_s3: S3, tmp_path: Path) -> None:
        store = Store(real_s3.uri(f"fault/{tmp_path.name}"))
        (tmp_path / "large").write_bytes(os.urandom(17 << 20))
        proxy.reset(
            refuse(503, "SlowDown", method="PUT", path="partNumber=2"),
            Rule("reset", method="PUT", path="partNumber=1"),
            refuse(500, "InternalError", method="POST", path="uploads"),
        )
        store.put_file("large", tmp_path / "large")
        assert sum(proxy.faults().values()) == 3
        proxy.reset(Rule("cut", path="/large"), refuse(503, "SlowDown", path="/large"))
        store.get_file("large", tmp_path / "back")
        assert proxy.faults() == {"cut": 1, "SlowDown": 1}
        given, back = (hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in ("large", "back"))
        assert given == back

    def test_listing_and_deleting(self, proxy: Faulty, real_s3: S3, tmp_path: Path) -> None:
        store = Store(real_s3.uri(f"fault/{tmp_path.name}"))
        for name in ("a", "b/c"):
            store.write_bytes(name, b"1")
        methods = itertools.cycle(("GET", "DELETE", "POST"))
        proxy.reset(*(refuse(503, "SlowDown", method=next(methods)) for _ in range(3)))
        assert store.list() == ["a", "b"]
        store.delete("b")
        assert store.list() == ["a"]
        assert sum(proxy.faults().values()) == 3

    def test_a_part_is_tried_as_often_as_any_other_request(self, proxy: Faulty, real_s3: S3, tmp_path: Path) -> None:
        store = Store(real_s3.uri(f"fault/{tmp_path.name}"))
        (tmp_path / "large").write_bytes(os.urandom(17 << 20))
        proxy.reset(refuse(503, "SlowDown", method="PUT", path="partNumber=2", times=None))
        with pytest.raises(StoreError) as error:
            store.put_file("large", tmp_path / "large")
        one_line(error, "/large: cannot write", "SlowDown", "4 tries in")
        assert proxy.count("PUT", "partNumber=2") == 4
        assert proxy.count("DELETE", "uploadId") == 1 and not store.exists("large"), "it is aborted"
        proxy.reset()
        store.put_file("large", tmp_path / "large")
        proxy.reset(Rule("cut", path="/large", skip=1, times=None))
        with pytest.raises(StoreError) as error:
            store.get_file("large", tmp_path / "back")
        one_line(error, "/large: answers of", "break off", "4 tries in")
        assert proxy.count("GET") <= 1 + 4 * 2 and not (tmp_path / "back").exists()

    def test_an_answer_that_was_lost_after_the_last_part(self, proxy: Faulty, real_s3: S3, tmp_path: Path) -> None:
        """The server has completed the upload, and knows it no more when it is asked again."""
        store = Store(real_s3.uri(f"fault/{tmp_path.name}"))
        (tmp_path / "large").write_bytes(os.urandom(9 << 20))
        proxy.reset(refuse(404, "NoSuchUpload", method="POST", path="uploadId="))
        store.put_file("large", tmp_path / "large")
        assert store.read_bytes("large") == (tmp_path / "large").read_bytes()
        assert proxy.count("PUT", "partNumber=1") == 2

    def test_an_object_that_is_replaced_while_it_is_copied(self, proxy: Faulty, real_s3: S3, tmp_path: Path) -> None:
        store = Store(real_s3.uri(f"fault/{tmp_path.name}"))
        old, new = os.urandom(17 << 20), os.urandom(17 << 20)
        store.write_bytes("x", old)
        # A session of its own: boto3's default one keeps the keys of the test that made it.
        past = boto3.Session(real_s3.access_key, real_s3.secret_key, region_name="us-east-1").client(
            "s3", endpoint_url=real_s3.endpoint
        )
        rule = Rule("cut", path="/x", skip=1)
        replaced: list[int] = []

        def replace() -> None:
            done = past.put_object(Bucket=real_s3.bucket, Key=f"fault/{tmp_path.name}/x", Body=new)
            replaced.append(done["ResponseMetadata"]["HTTPStatusCode"])

        rule.then = replace
        proxy.reset(rule)
        store.get_file("x", tmp_path / "back")
        assert replaced == [200]
        back = (tmp_path / "back").read_bytes()
        found = {old: "old", new: "new"}.get(back, "a mixture")  # to compare so many bytes would take pytest minutes
        assert found == "new"

    def test_single_objects_that_are_not_deleted(self, proxy: Faulty, real_s3: S3, tmp_path: Path) -> None:
        """The answer's status is 200; what failed is in its body."""
        store = Store(real_s3.uri(f"fault/{tmp_path.name}"))
        for name in ("a", "b"):
            store.write_bytes(f"tree/{name}", b"1")
        said = "<DeleteResult><Error><Key>a</Key><Code>{}</Code><Message>no</Message></Error></DeleteResult>"
        busy = [
            Rule("answer", method="POST", path="delete", status=200, code="OK", body=said.format(code).encode())
            for code in ("SlowDown", "InternalError", "ServiceUnavailable")
        ]
        proxy.reset(*busy)
        store.delete("tree")
        assert store.list() == [] and proxy.faults() == {"answer": 3}
        store.write_bytes("tree/a", b"1")
        proxy.reset(Rule("answer", "POST", "delete", status=200, code="OK", body=said.format("AccessDenied").encode()))
        with pytest.raises(StoreError, match="no permission to delete"):
            store.delete("tree")

    def test_a_server_that_stays_ill(self, proxy: Faulty, real_s3: S3) -> None:
        proxy.reset(refuse(503, "SlowDown", method="PUT", times=None))
        with pytest.raises(StoreError) as error:
            Store(real_s3.uri("fault/ill")).write_bytes("x", b"1")
        one_line(error, "/fault/ill/x", "cannot write", "SlowDown", "4 tries in")
        assert proxy.count("PUT") == 4

    def test_pyarrow_needs_no_setting_to_write_parts(self, real_s3: S3, tmp_path: Path) -> None:
        """Many servers do not know the checksums that AWS's SDK sends since 2025; what kdray opens sends none."""
        from kdray.store import open_uri

        uri = real_s3.uri(f"fault/{tmp_path.name}/arrow")
        before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        files, path = open_uri(uri)
        data = os.urandom(12 << 20)
        with files.open_output_stream(path) as file:
            file.write(data)
        assert Store(uri).read_bytes("") == data
        assert {name: value for name, value in os.environ.items() if name.startswith("AWS_")} == before
