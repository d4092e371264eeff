"""The first look at a bucket: a wrong endpoint is told soon, a server that is ill for a while ends no run."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from kdray.errors import StoreError
from kdray.store import Store, retry, s3_clients
from kdray.store.retry import Patience
from tests.conftest import S3
from tests.servers.faulty import Faulty, Rule, faulty, refuse


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was reached yet; pauses are short."""
    monkeypatch.setattr(retry, "PATIENCE", Patience(tries=6, first_s=0.02, longest_s=0.1))
    monkeypatch.setattr(s3_clients, "_regions", {})
    monkeypatch.setattr(s3_clients, "_answered", set())
    s3_clients._probe.cache_clear()


def test_once_in_a_process(proxy: Faulty, real_s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(real_s3.uri(f"probe/{tmp_path.name}"))
    proxy.reset()
    store.write_bytes("x", b"1")
    assert proxy.count("HEAD") == 1
    # Other keys do not make it another bucket.
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    (tmp_path / "credentials").write_text("")
    store.write_bytes("x", b"2")
    assert proxy.count("HEAD") == 1


@pytest.mark.parametrize(
    "rule",
    [
        Rule("reset", method="HEAD", times=4),
        refuse(503, "SlowDown", method="HEAD", times=4),
        refuse(500, "InternalError", method="HEAD", times=4),
    ],
    ids=["reset", "503", "500"],
)
def test_a_server_that_is_ill_is_waited_for(proxy: Faulty, real_s3: S3, tmp_path: Path, rule: Rule) -> None:
    proxy.reset(rule)
    Store(real_s3.uri(f"probe/{tmp_path.name}")).write_bytes("x", b"1")
    assert sum(proxy.faults().values()) == 4 and proxy.count("HEAD") == 5


def test_one_that_comes_up_a_moment_later(real_s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    between = Faulty(real_s3.endpoint.partition("://")[2], _listener=None)  # type: ignore[arg-type]

    def come_up() -> None:
        time.sleep(0.7)
        between._listener = socket.create_server(("127.0.0.1", port))
        between.serve()

    thread = threading.Thread(target=come_up, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    try:
        Store(real_s3.uri(f"probe/{tmp_path.name}")).write_bytes("x", b"1")
        assert between.count("PUT") == 1
    finally:
        between.close()
        thread.join()


def test_once_it_has_answered_silence_is_waited_for(
    real_s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another bucket: that of the data, say, after that of the run store."""
    monkeypatch.setattr(s3_clients, "FIRST_CONTACT", Patience(tries=1))
    monkeypatch.setitem(s3_clients._PROBE, "read_timeout", 0.3)
    with faulty(real_s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.reset(Rule("hang", method="HEAD", times=3))
        with pytest.raises(StoreError, match=r"does not answer \(tried once"):
            Store(real_s3.uri(f"probe/{tmp_path.name}")).write_bytes("x", b"1")
        proxy.reset()
        with pytest.raises(StoreError, match="'another-bucket' does not exist"):
            Store("s3://another-bucket/x").write_bytes("x", b"1")
        proxy.reset(Rule("hang", method="HEAD", times=3))
        Store(real_s3.uri(f"probe/{tmp_path.name}")).write_bytes("x", b"1")
        assert proxy.faults() == {"hang": 3}
