"""The store: what is written is whole or absent, and every failure is one line with a way out."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pyarrow.fs as fs
import pytest

from kdray.errors import StoreError
from kdray.store import Store, exists_uri, open_uri, read_uri
from kdray.store import arrow as google
from kdray.store import s3 as s3_module
from kdray.store.explain import explain
from tests.conftest import S3

MakeStore = Callable[[], Store]


@pytest.fixture(params=["local", "file", "s3", "gs"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "s3":
        server: S3 = request.getfixturevalue("s3")
        return Store(server.uri(f"store/{tmp_path.name}"))
    if request.param == "gs":  # pyarrow's interface over a local folder: Google's server itself is not to be had here
        (tmp_path / "cloud").mkdir()
        cloud = fs.SubTreeFileSystem(str(tmp_path / "cloud"), fs.LocalFileSystem())
        (tmp_path / "cloud" / "bucket" / "runs" / "a").mkdir(parents=True)  # object stores need no folders
        (tmp_path / "cloud" / "bucket" / "runs" / "a" / "b").mkdir()
        monkeypatch.setattr(google, "filesystem", lambda: cloud)
        return Store("gs://bucket/runs")
    return Store(tmp_path / "runs" if request.param == "local" else f"file://{tmp_path}/runs")


def one_line(error: pytest.ExceptionInfo[StoreError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def files_under(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


class TestEveryStorage:
    def test_gives_back_what_was_written(self, store: Store, tmp_path: Path) -> None:
        store.write_bytes("a/x.bin", b"\x00\xff")
        store.write_text("a/b/t.txt", "naïve\n")
        store.write_json("a/b/j.json", {"b": 1, "a": [1.5, None]})
        assert store.read_bytes("a/x.bin") == b"\x00\xff"
        assert store.read_text("a/b/t.txt") == "naïve\n"
        assert list(store.read_json("a/b/j.json").items()) == [("b", 1), ("a", [1.5, None])]
        assert store.list("a") == ["b", "x.bin"]
        assert store.sub("a").list("b") == ["j.json", "t.txt"]

    def test_a_second_write_replaces_the_first(self, store: Store) -> None:
        store.write_bytes("a/x", b"long and old")
        store.write_bytes("a/x", memoryview(b"new"))
        assert store.read_bytes("a/x") == b"new"
        store.write_bytes("a/x", b"")
        assert store.read_bytes("a/x") == b""

    def test_files_go_in_and_out(self, store: Store, tmp_path: Path) -> None:
        for size in (0, 3 << 20):
            given = tmp_path / "given"
            given.write_bytes(os.urandom(size))
            store.put_file("a/file", given)
            store.get_file("a/file", tmp_path / "taken" / "copy")
            assert (tmp_path / "taken" / "copy").read_bytes() == given.read_bytes()
        assert files_under(tmp_path / "taken") == ["copy"]

    def test_knows_what_is_there(self, store: Store) -> None:
        store.write_bytes("a/b/x", b"1")
        assert store.exists("a/b/x") and store.exists("a/b") and store.exists("")
        assert not store.exists("a/b/y") and not store.exists("a/b/x2")
        assert store.list("nothing") == []

    def test_deletes_files_and_trees_and_nothing_else(self, store: Store) -> None:
        for name in ("a/b/x", "a/b/y", "a/z"):
            store.write_bytes(name, b"1")
        store.delete("a/z")
        assert store.list("a") == ["b"]
        store.delete("a/b")
        assert not store.exists("a/b/x")
        store.delete("never was")

    def test_reading_what_is_absent_says_so(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(StoreError) as error:
            store.read_bytes("a/none")
        one_line(error, "a/none", "does not exist")
        with pytest.raises(StoreError, match="does not exist"):
            store.get_file("a/none", tmp_path / "out")
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))

    def test_is_its_uri_when_pickled(self, store: Store) -> None:
        again = pickle.loads(pickle.dumps(store))
        assert again == store and again.uri == store.uri
        assert len(pickle.dumps(store)) < 400

    def test_a_probe_leaves_nothing(self, store: Store) -> None:
        store.check_writable()
        assert [name for name in store.list() if name != "a"] == []

    def test_single_files_by_uri(self, store: Store) -> None:
        store.write_bytes("a/w", b"weights")
        assert read_uri(store.path_uri("a/w")) == b"weights"
        assert exists_uri(store.path_uri("a/w")) and not exists_uri(store.path_uri("a/v"))
        files, path = open_uri(store.path_uri("a/w"))
        with files.open_input_file(path) as file:
            assert file.read() == b"weights"


class TestNames:
    def test_a_relative_root_is_absolute_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        store = Store("runs/")
        monkeypatch.chdir("/")
        assert store.uri == str(tmp_path / "runs")
        assert store.path_uri("a/b") == str(tmp_path / "runs" / "a" / "b")

    @pytest.mark.parametrize(
        ("uri", "plain"),
        [
            ("s3://b/p/", "s3://b/p"),
            ("S3://b", "s3://b"),
            ("s3://b//p//q", "s3://b/p/q"),
            ("s3://b/a?b#c%20", "s3://b/a?b#c%20"),
        ],
    )
    def test_object_keys_are_literal(self, uri: str, plain: str) -> None:
        assert Store(uri).uri == plain

    @pytest.mark.parametrize(
        ("uri", "words"),
        [
            ("", ["no path"]),
            ("s4://b/x", ["'s4'", "did you mean 's3'"]),
            ("https://host/x", ["'https'", "Use a local path"]),
            ("s3://", ["no bucket"]),
            ("s3:///x", ["no bucket", "s3://bucket/prefix"]),
            ("s3://b/../x", ["'..'"]),
            ("file://host/x", ["file:///"]),
        ],
    )
    def test_a_wrong_uri_is_refused(self, uri: str, words: list[str]) -> None:
        with pytest.raises(StoreError) as error:
            Store(uri)
        one_line(error, *words)

    @pytest.mark.parametrize("rel", ["../x", "a/../../x", "/etc/passwd"])
    def test_no_name_leads_out_of_the_store(self, tmp_path: Path, rel: str) -> None:
        with pytest.raises(StoreError, match="leads out of the store"):
            Store(tmp_path).write_bytes(rel, b"")

    def test_json_that_is_none_is_told(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        store.write_text("x.json", '{"a": ')
        with pytest.raises(StoreError, match=r"x\.json: is not JSON"):
            store.read_json("x.json")
        with pytest.raises(ValueError, match=r"not JSON compliant|Out of range"):
            store.write_json("y.json", {"loss": float("nan")})
        assert store.list() == ["x.json"]


class TestWholeOrAbsent:
    @pytest.mark.parametrize("broken", ["fsync", "replace"])
    def test_a_full_disk_leaves_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
    ) -> None:
        store = Store(tmp_path)
        store.write_bytes("x", b"old")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, broken, full)
        with pytest.raises(StoreError) as error:
            store.write_bytes("x", b"new")
        one_line(error, str(tmp_path / "x"), "no space left", "Free some space")
        monkeypatch.undo()
        assert store.read_bytes("x") == b"old"
        assert os.listdir(tmp_path) == ["x"]

    def test_a_real_size_limit_is_told_in_one_line(self, tmp_path: Path) -> None:
        code = (
            "import sys; from kdray.store import Store; from kdray.errors import StoreError\n"
            "try: Store(sys.argv[1]).write_bytes('x', bytes(1 << 20))\n"
            "except StoreError as exc: print(exc)\n"
        )

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], preexec_fn=limit, capture_output=True, text=True, check=True
        )
        assert "larger than allowed" in done.stdout and "ulimit -f" in done.stdout
        assert os.listdir(tmp_path) == []

    def test_a_killed_write_leaves_nothing_that_is_listed(self, tmp_path: Path) -> None:
        code = (
            "import os, signal, sys; from kdray.store.local import replacing\n"
            "with replacing(sys.argv[1]) as file:\n"
            "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")])
        assert done.returncode == -9
        assert len(os.listdir(tmp_path)) == 1  # the temporary file, which no reader takes for one of its own
        assert Store(tmp_path).list() == [] and not Store(tmp_path).exists("x")

    def test_an_upload_that_breaks_leaves_no_object(
        self, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Breaks(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() >= 16 << 20:
                    raise OSError(errno.EIO, "Input/output error")
                return super().read(size)

        (tmp_path / "big").write_bytes(b"")
        monkeypatch.setattr(s3_module, "open", lambda *_: Breaks(bytes(24 << 20)), raising=False)
        store = Store(s3.uri("broken"))
        with pytest.raises(StoreError, match="Input/output error"):
            store.put_file("big", tmp_path / "big")
        assert store.list() == []
        client = boto3.client("s3", endpoint_url=s3.endpoint)
        assert not client.list_multipart_uploads(Bucket=s3.bucket).get("Uploads")


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
            monkeypatch.setitem(s3_module._PROBE, "read_timeout", s3_module._PROBE["read_timeout"] / 4)  # type: ignore[operator]
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
        monkeypatch.setitem(s3_module._WORK, "retries", {"mode": "standard", "total_max_attempts": 1})
        with answering(status, code) as endpoint:
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            with pytest.raises(StoreError) as error:
                Store("s3://some-bucket/runs").check_writable()
        one_line(error, "s3://some-bucket/runs", *words)
        assert "test-secret" not in str(error.value) and "test-key" not in str(error.value)

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


def test_local_disk_needs_neither_boto3_nor_pyarrow(tmp_path: Path) -> None:
    code = (
        "import sys; from kdray.store import Store; Store(sys.argv[1]).check_writable()\n"
        "assert not {'boto3', 'botocore', 'pyarrow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


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
