"""Packing on a Ray cluster: killed in the middle, gone on with by another number of workers, the same set."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdray.data.manifest_json import MANIFEST
from kdray.data.pack.execute import pack
from tests.cluster.command import REPOSITORY, Process, running
from tests.data.pack.on_ray import OPTIONS
from tests.data.pack.pictures import collection, contents, write_pictures


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: Ray's sockets lie deep in it, and a socket's path ends at 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="kd-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_killed_on_ray_and_gone_on_with(tmp_path: Path, short: Path) -> None:
    source = write_pictures(tmp_path / "source", 150)
    (source / "0050-2.jpeg").write_bytes(b"no image")
    pack(collection(source), str(tmp_path / "whole"), OPTIONS, workers=0)
    whole = contents(tmp_path / "whole")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    env = kept | {"RAY_TMPDIR": str(short), "PYTHONPATH": str(REPOSITORY), "HOME": str(short)}
    command = [sys.executable, "-m", "tests.data.pack.on_ray", source, tmp_path]

    def shards() -> int:
        return len(list((tmp_path / "killed").glob("*.parquet")))

    with running(Process([*command, "2"], REPOSITORY, env, tmp_path / "first.log")) as first:
        first.wait_for(lambda: shards() >= 3, "three shards")
        first.signal(signal.SIGKILL)
        first.wait()
    assert not (tmp_path / "killed" / MANIFEST).exists()
    assert 3 <= shards() < len(whole) - 1
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.parquet")}
    with running(Process([*command, "3", "further"], REPOSITORY, env, tmp_path / "second.log")) as second:
        assert second.wait() == 0, second.output
        output = second.output
    assert contents(tmp_path / "killed") == whole
    kept_times = [name for name, time in done.items() if (tmp_path / "killed" / name).stat().st_mtime_ns == time]
    assert len(kept_times) >= 3 - 2  # a shard whose record the kill forestalled is written again: one a worker at most
    assert contents(tmp_path / "here") == whole
    assert "told:" in output and "0050-2.jpeg (not an image" in output and "--max-bad" in output
