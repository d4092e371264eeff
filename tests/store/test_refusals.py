"""Every refusal is one line with a way out."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kdray.errors import StoreError
from kdray.store import Store, open_uri, read_uri, s3_clients
from kdray.store.explain import explain
from kdray.store.retry import Patience
from tests.conftest import S3
from tests.store.telling import one_line


class TestRefusals:
    def test_a_folder_without_permission(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "locked" / "runs")
        (tmp_path / "locked").mkdir(mode=0o555)
        with unprivileged(), pytest.raises(StoreError) as error:
            store.check_writable()
        one_line(error, str(tmp_path / "locked" / "runs"), "no permission to write", "another place")
        assert "probe" not in str(error.value)
        assert os.listdir(tmp_path / "locked") == []

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("")
        with pytest.raises(StoreError, match="a file stands where a folder should be"):
            Store(tmp_path / "runs").check_writable()
        with pytest.raises(StoreError, match="is a folder, not a file"):
            read_uri(tmp_path)
        (tmp_path / "folder").mkdir()
        with pytest.raises(StoreError, match="is a folder"):
            Store(tmp_path).write_bytes("folder", b"")
        with pytest.raises(StoreError, match="is no file"):
            Store(tmp_path).put_file("x", tmp_path / "none")

    def test_a_bucket_that_does_not_exist(self, s3: S3) -> None:
        with pytest.raises(StoreError) as error:
            Store("s3://no-such-bucket/runs").check_writable()
        one_line(error, "s3://no-such-bucket/runs", "bucket 'no-such-bucket' does not exist", s3.endpoint, "Create it")
        with pytest.raises(StoreError, match="bucket 'no-such-bucket' does not exist"):
            open_uri("s3://no-such-bucket/x")

    def test_an_endpoint_that_refuses_connections(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as taken:  # bound, not listening
            taken.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            monkeypatch.setattr(s3_clients, "FIRST_CONTACT", Patience(first_s=0.1, total_s=1))
            with pytest.raises(StoreError) as error:
                Store(s3.uri("x")).check_writable()
            one_line(error, f"endpoint {endpoint} does not answer", "AWS_ENDPOINT_URL_S3")

    def test_an_endpoint_that_is_silent_is_told_within_15_seconds(
        self, s3: S3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(8)
            endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
            monkeypatch.setattr(s3_clients, "FIRST_CONTACT", Patience(total_s=s3_clients.FIRST_CONTACT.total_s / 4))
            monkeypatch.setitem(s3_clients._PROBE, "read_timeout", s3_clients._PROBE["read_timeout"] / 4)
            start = time.monotonic()
            with pytest.raises(StoreError, match=f"endpoint {endpoint} does not answer"):
                open_uri(s3.uri("x"))
            assert time.monotonic() - start < 15 / 4 + 2

    @pytest.mark.parametrize(
        ("status", "code", "words"),
        [
            (403, "AccessDenied", ["no permission to write", "s3:PutObject"]),
            (403, "InvalidAccessKeyId", ["refused the credentials", "the access key is not known"]),
            (403, "SignatureDoesNotMatch", ["the secret key does not fit"]),
            (403, "ExpiredToken", ["the session token has expired"]),
            (507, "QuotaExceeded", ["no space left"]),
            (411, "MissingContentLength", ["AWS_REQUEST_CHECKSUM_CALCULATION=when_required"]),
            (400, "AuthorizationHeaderMalformed", ["another region", "AWS_REGION"]),
            (418, "Teapot", ["answered Teapot"]),
        ],
    )
    def test_what_a_server_answers(
        self, s3: S3, monkeypatch: pytest.MonkeyPatch, status: int, code: str, words: list[str]
    ) -> None:
        with answering(status, code) as endpoint:
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            with pytest.raises(StoreError) as error:
                Store("s3://some-bucket/runs").check_writable()
        one_line(error, "s3://some-bucket/runs", *words)
        assert s3.secret_key not in str(error.value) and s3.access_key not in str(error.value)

    def test_no_credentials_and_no_such_profile(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(StoreError) as error:
            Store(s3.uri("x")).check_writable()
        one_line(error, "no credentials were found", "AWS_PROFILE")
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(StoreError, match="the profile in AWS_PROFILE does not exist"):
            Store(s3.uri("x")).check_writable()

    def test_an_endpoint_that_is_no_url(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
        with pytest.raises(StoreError) as error:
            Store(s3.uri("x")).check_writable()
        one_line(error, "'localhost:9000' is no endpoint", "http://host:port")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("When reading: AWS Error ACCESS_DENIED during HeadObject", ["no permission to read", "s3:GetObject"]),
            ("AWS Error NETWORK_CONNECTION during GetObject: curlCode: 28", ["does not answer"]),
            ("AWS Error NO_SUCH_BUCKET during ListObjectsV2", ["bucket 'b' does not exist"]),
            ("google::cloud::Status(PERMISSION_DENIED: x)", ["no permission to read"]),
            ("google::cloud::Status(UNAVAILABLE: Could not create a OAuth2 token)", ["no Google credentials"]),
            ("google::cloud::Status(UNAVAILABLE: x)", ["does not answer"]),
        ],
    )
    def test_what_pyarrow_reports(self, text: str, words: list[str]) -> None:
        told = str(explain(OSError(text), "s3://b/k", "read"))
        assert "\n" not in told
        for word in words:
            assert word in told


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As a user whom permissions bind: root is not bound."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextlib.contextmanager
def answering(status: int, code: str) -> Iterator[str]:
    """An S3 server that knows every bucket and answers everything else with one error."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
