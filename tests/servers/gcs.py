"""A stand-in for Google Cloud Storage on loopback, in a process of its own: an emulator that PyPI has."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

BUCKET = "kdray-tests"
_START = (
    "import sys; from gcp_storage_emulator.server import create_server\n"
    "create_server('127.0.0.1', int(sys.argv[1]), in_memory=True, default_bucket=sys.argv[2]).run()"
)


@contextlib.contextmanager
def emulator() -> Iterator[str]:
    """The emulator's URL; it has one bucket, and everything is gone with the block."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", _START, str(port), BUCKET], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
                break
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the storage emulator does not answer (exit code {server.poll()})")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)
