"""An S3 server on this machine to measure against: Ceph's radosgw where it is installed, else moto."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # the servers of the tests
RADOSGW = ROOT / "tests" / "servers" / "radosgw.sh"
BUCKET = "kdray-bench"
KEY, SECRET = "bench-key", "bench-secret"  # of a server that ends with the benchmark
_START_TIMEOUT_S = 60


class Server:
    """A server that starts when something is first uploaded to it."""

    def __init__(self, folder: Path, wanted: str) -> None:
        there = RADOSGW.exists() and shutil.which("radosgw") is not None and os.geteuid() == 0
        self.kind = wanted if wanted != "auto" else ("radosgw" if there else "moto")
        self.environment: dict[str, str] = {}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._uploaded: set[str] = set()

    def processes(self) -> list[int]:
        """Process ids of the server."""
        if self._process is not None:
            return [self._process.pid]
        return [int(path.read_text()) for path in self._folder.glob("*.pid")]

    @contextmanager
    def apart(self, cpus: set[int], latency_s: float) -> Iterator[None]:
        """Inside the block the server keeps to `cpus` and, where asked, every request takes `latency_s` longer: it goes
        through a proxy, threads of this process, which keeps to them too.
        """
        if not self.environment:
            yield
            return
        for process in self.processes():
            for thread in os.listdir(f"/proc/{process}/task"):
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread), cpus)
        if not latency_s:
            yield
            return
        from tests.servers.faulty import faulty

        endpoint, mine = self.environment["AWS_ENDPOINT_URL"], os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)  # what threads are started with
        try:
            with faulty(endpoint) as proxy:
                os.sched_setaffinity(0, mine)
                proxy.latency_s = latency_s
                self.environment["AWS_ENDPOINT_URL"] = proxy.endpoint
                yield
        finally:
            os.sched_setaffinity(0, mine)
            self.environment["AWS_ENDPOINT_URL"] = endpoint

    def upload(self, folder: Path, name: str) -> str:
        """Put a folder there under `name`, once; return its URI."""
        import boto3

        if not self.environment:
            self._start()
        uri = f"s3://{BUCKET}/{name}"
        if name not in self._uploaded:
            client = boto3.client(
                "s3",
                endpoint_url=self.environment["AWS_ENDPOINT_URL"],
                aws_access_key_id=KEY,
                aws_secret_access_key=SECRET,
                region_name="us-east-1",
            )
            for path in sorted(folder.iterdir()):
                client.put_object(Bucket=BUCKET, Key=f"{name}/{path.name}", Body=path.read_bytes())
            self._uploaded.add(name)
        return uri

    def _start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        endpoint = f"http://127.0.0.1:{port}"
        if self.kind == "radosgw":
            environment = os.environ | {"KEY": KEY, "SECRET": SECRET}
            subprocess.run([str(RADOSGW), "start", str(self._folder), str(port)], check=True, env=environment)
        else:
            command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _wait(f"{endpoint}/moto-api/")
        self.environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }
        os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"  # of the uploads, too
        import boto3

        client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
        )
        client.create_bucket(Bucket=BUCKET)

    def stop(self) -> None:
        """End it; its data is gone."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        elif self.environment:
            subprocess.run([str(RADOSGW), "stop", str(self._folder)], check=True)


def _wait(url: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextmanager
def serving(wanted: str) -> Iterator[Server]:
    """A server that may be used inside the block."""
    with tempfile.TemporaryDirectory(prefix="kdray-s3-") as folder:
        server = Server(Path(folder), wanted)
        try:
            yield server
        finally:
            server.stop()
