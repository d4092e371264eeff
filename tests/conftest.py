"""Settings and fixtures of all rooms: a real S3 server of our own on this machine, a place for tiny experiments."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.tiny import Lab

# The default deadline of 200 ms an example measures how busy the machine is, not the code.
settings.register_profile("kdray", deadline=None)
settings.load_profile("kdray")


@dataclass(frozen=True)
class S3:
    """An S3 server: its endpoint, and a bucket that exists; the AWS_* variables point to it."""

    endpoint: str
    bucket: str

    def uri(self, path: str) -> str:
        return f"s3://{self.bucket}/{path}"


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """moto in a process of its own; everything in it is gone with the session. Use a prefix of your own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    patch = pytest.MonkeyPatch()
    try:
        _wait(endpoint, server)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        import boto3

        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="kdray-tests")
        yield S3(endpoint, "kdray-tests")
    finally:
        patch.undo()
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(endpoint: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the S3 server ended with {server.returncode}")
        try:
            urllib.request.urlopen(endpoint + "/moto-api/", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the S3 server did not start within 60 s")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `data.root` in which the handwritten digits are packed."""
    from kdray.data.dataset import open_dataset
    from kdray.experiment import Data

    root = tmp_path_factory.mktemp("digits")
    open_dataset(Data(source="digits", root=str(root)))
    return root


@pytest.fixture
def lab(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A folder for tiny experiments, which is also where the command runs."""
    from tests.tiny import Lab

    monkeypatch.chdir(tmp_path)
    return Lab(tmp_path, digits)
