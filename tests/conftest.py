"""Settings and fixtures of all rooms: S3 servers of our own on this machine, a place for tiny experiments."""

from __future__ import annotations

import contextlib
import os
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.servers.faulty import Faulty, faulty
from tests.servers.gcs import BUCKET, emulator
from tests.servers.s3 import S3, moto, radosgw, why_no_radosgw

if TYPE_CHECKING:
    from tests.tiny import Lab

__all__ = ["S3"]

# The default deadline of 200 ms an example measures how busy the machine is, not the code.
settings.register_profile("kdray", deadline=None)
settings.load_profile("kdray")


def point_to(server: S3, patch: pytest.MonkeyPatch) -> None:
    """Make `server` what the AWS_* variables mean, and nothing else."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name, value in server.environment.items():
        patch.setenv(name, value)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """moto, for the whole session; the AWS_* variables point to it. Use a prefix of your own."""
    patch = pytest.MonkeyPatch()
    try:
        with moto() as server:
            point_to(server, patch)
            yield server
    finally:
        patch.undo()


@pytest.fixture(scope="session")
def real_s3_server() -> Iterator[S3]:
    """A production server, Ceph's, where it can be started; else moto, which the report tells. Touches no variable."""
    reason = why_no_radosgw()
    with contextlib.ExitStack() as stack:
        server: S3 | None = None
        if reason is None:
            try:
                server = stack.enter_context(radosgw())
            except (RuntimeError, subprocess.SubprocessError) as error:
                reason = str(error)
        if server is None:
            warnings.warn(f"object storage tests ran against moto: {reason}", stacklevel=1)  # told at the end
            server = stack.enter_context(moto())
        yield server


@pytest.fixture
def real_s3(real_s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """`real_s3_server`, with the AWS_* variables of this test pointing to it. Use a prefix of your own."""
    point_to(real_s3_server, monkeypatch)
    return real_s3_server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[str]:
    """The URL of a stand-in for Google Cloud Storage."""
    with emulator() as url:
        yield url


@pytest.fixture
def gcs(gcs_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket, as gs://NAME, on that stand-in."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server)
    return f"gs://{BUCKET}"


@pytest.fixture
def proxy(real_s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """A proxy before `real_s3` that does what the test tells it; the AWS_* variables point to the proxy."""
    with faulty(real_s3.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        yield between


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
