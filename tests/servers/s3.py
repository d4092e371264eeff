"""S3 servers on loopback, in processes of their own: moto, quick and lenient, and Ceph's gateway, a production server.

moto answers with what S3 answers but believes every signature; Ceph checks signatures, streams large objects and knows
fewer of AWS's novelties, as most servers outside of AWS do.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parent / "radosgw.sh"
PROGRAMS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool", "curl")
BUCKET = "kdray-tests"


@dataclass(frozen=True)
class S3:
    """An S3 server: its endpoint, a bucket that exists, and the keys that open it."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str

    def uri(self, path: str) -> str:
        return f"s3://{self.bucket}/{path}"

    @property
    def environment(self) -> dict[str, str]:
        """The AWS_* variables of a user who has nothing else set up."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextlib.contextmanager
def moto() -> Iterator[S3]:
    """A moto server; everything in it is gone with the block."""
    (port,) = _free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(endpoint, server)
        yield _with_bucket(S3(endpoint, BUCKET, *_new_keys()))
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def why_no_radosgw() -> str | None:
    """Why Ceph's gateway is not started here, None where it is. KDRAY_TESTS_S3=moto asks for moto."""
    if os.environ.get("KDRAY_TESTS_S3") == "moto":
        return "KDRAY_TESTS_S3=moto"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{missing[0]} is not installed"
    return None if os.geteuid() == 0 else "radosgw needs root"


@contextlib.contextmanager
def radosgw() -> Iterator[S3]:
    """Ceph's gateway with keys of its own; everything in it is gone with the block."""
    keys = dict(zip(("KEY", "SECRET"), _new_keys(), strict=True))
    # A short path: sockets lie in it.
    folder = tempfile.mkdtemp(prefix="kd-rgw-", dir="/tmp")
    state = os.path.join(folder, "state")
    first = _free_run(3)
    try:
        command = [str(SCRIPT), "start", state, str(first)]
        with open(os.path.join(folder, "told"), "w+") as told:
            done = subprocess.run(command, env=os.environ | keys, stdout=told, stderr=told, timeout=300)
            told.seek(0)
            if done.returncode:
                raise RuntimeError(told.read().strip())
        yield _with_bucket(S3(f"http://127.0.0.1:{first}", BUCKET, keys["KEY"], keys["SECRET"]))
    finally:
        subprocess.run([str(SCRIPT), "stop", state], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def _new_keys() -> tuple[str, str]:
    """Access key and secret that are found nowhere by chance."""
    return f"key{secrets.token_hex(6)}", f"secret{secrets.token_hex(12)}"


def _with_bucket(server: S3) -> S3:
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket=server.bucket)
    return server


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _free_run(count: int) -> int:
    """The first of `count` neighbouring ports that nobody uses now, below those that the system gives out."""
    for first in range(20000 + secrets.randbelow(8000), 32000, count):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise RuntimeError("no free ports")


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
