"""Reading pieces of files: any order, any sizes, the same bytes as slicing; few reads for neighbours."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from kdray.data.pack import ranges
from kdray.data.pack.collection import BadItem
from kdray.data.pack.ranges import read_files, read_ranges
from kdray.errors import StoreError
from kdray.store import Store
from tests.conftest import S3
from tests.servers.faulty import Faulty, refuse


def _files(root: Path, count: int = 3, size: int = 200_000) -> tuple[list[str], list[bytes]]:
    rng = np.random.default_rng(0)
    contents = [rng.bytes(size) for _ in range(count)]
    for number, content in enumerate(contents):
        (root / f"{number}.bin").write_bytes(content)
    return [str(root / f"{number}.bin") for number in range(count)], contents


def _pieces(count: int, seed: int, largest: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    size = rng.integers(0, largest, count)
    return rng.integers(0, 3, count), rng.integers(0, 200_000 - size), size


@pytest.mark.parametrize("window", [1, 10_000, ranges.WINDOW_BYTES])
@pytest.mark.parametrize("ordered", [False, True])
def test_the_same_as_slicing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, ordered: bool) -> None:
    files, contents = _files(tmp_path)
    monkeypatch.setattr(ranges, "WINDOW_BYTES", window)
    monkeypatch.setattr(ranges, "WINDOW_ROWS", 150)
    file, offset, size = _pieces(400, window)
    if ordered:
        order = np.lexsort((offset, file))
        file, offset, size = file[order], offset[order], size[order]
    expected = [contents[f][o : o + s] for f, o, s in zip(file, offset, size, strict=True)]
    assert list(read_ranges(files, file, offset, size)) == expected


def test_the_same_from_s3(tmp_path: Path, s3: S3) -> None:
    files, contents = _files(tmp_path)
    store = Store(s3.uri("ranges"))
    for path in files:
        store.put_file(Path(path).name, path)
    file, offset, size = _pieces(60, 1)
    expected = [contents[f][o : o + s] for f, o, s in zip(file, offset, size, strict=True)]
    assert list(read_ranges([store.path_uri(Path(path).name) for path in files], file, offset, size)) == expected


def test_neighbours_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = _files(tmp_path)
    reads: list[tuple[int, int]] = []
    lock = threading.Lock()
    real = ranges._one

    def counted(path: str, begin: int, end: int) -> bytes | BadItem:
        with lock:
            reads.append((begin, end))
        return real(path, begin, end)

    monkeypatch.setattr(ranges, "_one", counted)
    offset = np.arange(0, 100_000, 1000)  # tiles with gaps of 500 bytes
    file, size = np.zeros(100, np.int64), np.full(100, 500)
    assert len(list(read_ranges(files, file, offset, size))) == 100
    assert reads == [(0, 99_500)]
    reads.clear()
    assert len(list(read_ranges(files, file[:2], np.array([0, 150_000]), size[:2]))) == 2
    assert sorted(reads) == [(0, 500), (150_000, 150_500)]


def test_gaps_are_read_over_only_when_as_much_is_used() -> None:
    file = np.zeros(3, np.int64)
    for size, reads in ((100_000, 1), (1000, 3)):
        offset = np.arange(3) * (size + 90_000)
        _, spans = ranges._spans(file, offset, np.full(3, size), ranges.REMOTE_GAP)
        assert len(spans) == reads


def read_both(uris: list[str]) -> list[bytes | BadItem]:
    """A byte of each file, read as a piece and as a whole."""
    ones, count = np.ones(len(uris), np.int64), len(uris)
    return [
        *read_ranges(uris, np.arange(count), np.zeros(count, np.int64), ones),
        *read_files(uris, ones),
    ]


def test_a_file_that_cannot_be_read_is_a_bad_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("denied", "broken", "good"):
        (tmp_path / name).write_bytes(b"x")
    plain_open, plain_read = os.open, Path.read_bytes

    def fails(path: object) -> None:
        for name, number in (("denied", errno.EACCES), ("broken", errno.EIO), ("stale", errno.ESTALE)):
            if str(path).endswith(name):
                raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "open", lambda path, *more: (fails(path), plain_open(path, *more))[1])
    monkeypatch.setattr(Path, "read_bytes", lambda self: (fails(self), plain_read(self))[1])
    uris = [str(tmp_path / name) for name in ("folder", "loop", "denied", "broken", "good")]
    reasons = (
        "is a folder, not a file",
        "cannot read: Too many levels of symbolic links",
        "no permission to read",
        "cannot read: Input/output error",
    )
    pieces = [BadItem(f"{uri}: {reason}") for uri, reason in zip(uris, reasons, strict=False)]
    assert read_both(uris) == [*pieces, b"x", *map(BadItem, reasons), b"x"]
    for read in (read_ranges, read_files):  # not of the file
        zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
        arguments = (zero, zero, one) if read is read_ranges else (one,)
        with pytest.raises(StoreError, match="Stale file handle"):
            list(read([str(tmp_path / "stale")], *arguments))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("AccessDenied", "no permission to read"),
        ("InvalidObjectState", "is archived, and must be restored to be read"),
    ],
)
def test_a_key_that_cannot_be_read_is_a_bad_item(proxy: Faulty, code: str, reason: str) -> None:
    store = Store(f"s3://kdray-tests/unreadable/{code}")
    for name in ("a", "b"):
        store.write_bytes(name, b"x")
    uris = [store.path_uri(name) for name in ("a", "b")]
    proxy.reset(refuse(403, code, times=None, path="/b"))
    assert read_both(uris) == [b"x", BadItem(f"{uris[1]}: {reason}"), b"x", BadItem(reason)]
    for unknown in ("InvalidAccessKeyId", "ExpiredToken"):
        proxy.reset(refuse(403, unknown, times=None, path="/b"))
        with pytest.raises(StoreError, match="refused the credentials"):
            read_both(uris)


def test_whole_files(tmp_path: Path) -> None:
    files, contents = _files(tmp_path, 3, 5000)
    many = [files[number % 3] for number in range(100)]
    assert list(read_files(many, np.full(100, 5000))) == [contents[number % 3] for number in range(100)]
    assert list(read_files(files[:1], np.array([ranges.LARGEST + 1]))) == [
        BadItem(f"{ranges.LARGEST + 1} bytes, more than {ranges.LARGEST}: no image")
    ]
