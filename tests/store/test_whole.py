"""What is written is whole or absent, whatever happens to the writer."""

from __future__ import annotations

import errno
import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from kdray.errors import StoreError
from kdray.store import Store
from kdray.store import s3 as s3_module
from tests.conftest import S3
from tests.store.telling import one_line


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

        with open(tmp_path / "big", "wb") as file:
            file.truncate(24 << 20)
        monkeypatch.setattr(s3_module, "open", lambda *_: Breaks(bytes(24 << 20)), raising=False)
        store = Store(s3.uri("broken"))
        with pytest.raises(StoreError, match="Input/output error"):
            store.put_file("big", tmp_path / "big")
        assert store.list() == []
        client = boto3.client("s3", endpoint_url=s3.endpoint)
        assert not client.list_multipart_uploads(Bucket=s3.bucket).get("Uploads")


def test_local_disk_needs_neither_boto3_nor_pyarrow(tmp_path: Path) -> None:
    code = (
        "import sys; from kdray.store import Store; Store(sys.argv[1]).check_writable()\n"
        "assert not {'boto3', 'botocore', 'pyarrow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
