"""Reading pieces of files: any order, any sizes, the same bytes as slicing; few reads for neighbours."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from kdray.data.pack import ranges
from kdray.data.pack.collection import BadItem
from kdray.data.pack.ranges import read_files, read_ranges
from kdray.errors import StoreError
from tests.conftest import S3


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
    from kdray.store import Store

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


def test_a_file_that_cannot_be_read_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="is a folder, not a file"):
        list(
            read_ranges([str(tmp_path / "folder")], np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1, np.int64))
        )
    with pytest.raises(StoreError, match="is a folder, not a file"):
        list(read_files([str(tmp_path / "folder")], np.ones(1)))


def test_whole_files(tmp_path: Path) -> None:
    files, contents = _files(tmp_path, 3, 5000)
    many = [files[number % 3] for number in range(100)]
    assert list(read_files(many, np.full(100, 5000))) == [contents[number % 3] for number in range(100)]
    assert list(read_files(files[:1], np.array([ranges.LARGEST + 1]))) == [
        BadItem(f"{ranges.LARGEST + 1} bytes, more than {ranges.LARGEST}: no image")
    ]
