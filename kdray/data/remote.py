"""Parquet shards in object storage: one request for all that is needed of a row group, and none but that.

A Parquet reader left to itself asks for the file's size, its footer and its columns, for each row group anew. Sizes are
in the manifest and come back with every answer, as does the version of the shard; a footer is read once in a process;
neighbouring columns are one range.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kdray.data.footer_cache import AGAIN, FOOTERS, Known
from kdray.errors import DataError
from kdray.store import read_range
from kdray.store.place import parse

TAIL_BYTES = 64 << 10  # one request gets most footers whole
GAP_BYTES = 256 << 10  # what lies between two ranges is read along rather than asked around
REQUESTS = 32  # of one process at a time, where a shard is read in many small ranges

Read = Callable[[int, int], bytes]  # the bytes of a file from the first to before the end

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def is_remote(folder: str) -> bool:
    """Whether shards of that folder are reached by requests."""
    return parse(folder).scheme != "local"


def read_table(uri: str, size: int, fingerprint: str, row_group: int | None, columns: Sequence[str]) -> pa.Table:
    """Columns of one row group, or of all, of the shard at `uri`, which has `size` bytes; checksums of pages, where
    the writer left them, are verified.

    Raises:
        DataError: the shard has another size, or was replaced since its footer was read.
        StoreError: the storage does not answer or refuses.
        pyarrow.ArrowException, OSError: the content is no Parquet, or damaged.
    """
    key = (uri, size, fingerprint)
    known = footer(uri, size, fingerprint)

    def read(first: int, end: int) -> bytes:
        data, version = _range(uri, size, first, end)
        FOOTERS.check(key, known, version)
        return data

    metadata = known.metadata
    groups = range(metadata.num_row_groups) if row_group is None else [row_group]
    ranges = ranges_of(metadata, groups, columns)
    pieces = dict(zip(ranges, _fetch(read, ranges), strict=True))
    source = pa.PythonFile(_Pieces(read, size, pieces), mode="r")
    with pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True) as shard:
        # Threads are the caller's, one per row group: Arrow's own would compete with them.
        if row_group is None:
            return shard.read(columns=list(columns), use_threads=False)
        return shard.read_row_group(row_group, columns=list(columns), use_threads=False)


def footer(uri: str, size: int, fingerprint: str) -> Known:
    """The footer of a shard, local or remote, asked for once however many threads want it; `fingerprint` is the set's.

    Raises as `read_tail`.
    """
    return FOOTERS.get((uri, size, fingerprint), lambda: _tail(uri, size))


def read_tail(uri: str, size: int) -> bytes:
    """The last bytes of the Parquet file at `uri`: its whole footer, and nothing before it.

    Raises:
        DataError: the file has not `size` bytes, does not end as Parquet does, or was replaced while it was read.
        StoreError: the storage does not answer or refuses.
    """
    return _tail(uri, size)[0]


def _tail(uri: str, size: int) -> tuple[bytes, str | None]:
    cut = DataError("is cut off, or no Parquet file", where=uri, fix="Copy or write it again")
    if size < 12:
        raise cut
    tail, version = _range(uri, size, max(0, size - TAIL_BYTES), size)
    if len(tail) < 8 or tail[-4:] != b"PAR1":
        raise cut
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    if needed + 4 > size:
        raise cut
    if needed <= len(tail):
        return tail[-needed:], version
    tail, now = _range(uri, size, size - needed, size)
    if now != version:
        raise DataError("was replaced while its footer was read", where=uri, fix="Start again")
    return tail, version


def ranges_of(known: pq.FileMetaData, groups: Sequence[int], columns: Sequence[str]) -> list[tuple[int, int]]:
    """Byte ranges (first, end) that hold `columns` of the row groups, ascending, those that are near each other as one.

    A name stands for a column and for all that is nested in it.
    """
    paths = [known.schema.column(number).path for number in range(known.num_columns)]
    wanted = [n for n, path in enumerate(paths) if any(path == c or path.startswith(f"{c}.") for c in columns)]
    chunks = []
    for group in groups:
        facts = known.row_group(group)
        for number in wanted:
            chunk = facts.column(number)
            first = chunk.data_page_offset
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                first = min(first, chunk.dictionary_page_offset)
            chunks.append((first, first + chunk.total_compressed_size))
    merged: list[tuple[int, int]] = []
    for first, end in sorted(chunks):
        if merged and first - merged[-1][1] <= GAP_BYTES:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return merged


class _Pieces(io.RawIOBase):
    """A file of which some ranges are at hand; what else is asked for, is fetched."""

    def __init__(self, read: Read, size: int, pieces: dict[tuple[int, int], bytes]) -> None:
        self._read, self._size, self._pieces, self._at = read, size, pieces, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> Any:
        first = self._at
        end = self._size if size < 0 else min(self._size, first + size)
        self._at = max(first, end)
        for (start, stop), data in self._pieces.items():
            if start <= first and end <= stop:
                return memoryview(data)[first - start : end - start]
        return self._read(first, end) if end > first else b""


def _fetch(read: Read, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    if len(ranges) < 2:
        return [read(first, end) for first, end in ranges]
    global _pool
    with _lock:
        _pool = _pool or ThreadPoolExecutor(REQUESTS, "kdray-requests")
        pool = _pool
    return list(pool.map(lambda span: read(*span), ranges))


def _range(uri: str, size: int, first: int, end: int) -> tuple[bytes, str | None]:
    data, whole, version = read_range(uri, first, end - first)
    if whole != size:
        said = f"{whole} bytes" if whole is not None else "fewer bytes"
        raise DataError(f"has {said} instead of {size}: cut off or changed", where=uri, fix=AGAIN)
    if len(data) != end - first:
        problem = f"ends at byte {first + len(data)}, before its footer says"
        raise DataError(problem, where=uri, fix=AGAIN)
    return data, version
