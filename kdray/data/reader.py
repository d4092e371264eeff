"""Rows of shards, by dense row number, in the order asked for.

Nothing is kept between calls but parsed footers (small, and the layout never changes), so any worker may read any row
at any time. Only the row groups and columns that are needed are read, from local files through the page cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdray.data.footer_cache import AGAIN, FOOTERS
from kdray.data.manifest import Manifest
from kdray.data.remote import footer, is_remote, read_table
from kdray.errors import DataError, StoreError
from kdray.store import open_uri
from kdray.store.explain import explain
from kdray.store.local import version_of

T = TypeVar("T")
R = TypeVar("R")
REMOTE_THREADS = 16
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """n rows: encoded images, labels int64 [n], ids int64 [n] and dense row numbers int64 [n]."""

    images: list[bytes]
    labels: np.ndarray
    ids: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def cut(self, start: int, stop: int) -> Rows:
        """Rows start..stop; images are not copied."""
        at = slice(start, stop)
        return Rows(self.images[at], self.labels[at], self.ids[at], self.index[at])

    @staticmethod
    def join(parts: Sequence[Rows]) -> Rows:
        """One after the other; images are not copied."""
        if len(parts) == 1:
            return parts[0]
        columns = zip(*((rows.labels, rows.ids, rows.index) for rows in parts), strict=True)
        return Rows([image for rows in parts for image in rows.images], *map(np.concatenate, columns))


def read_labels(manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Labels and ids of all rows, each int64 [N], without reading images.

    Raises:
        DataError: a label that is null or out of range, an id that is null, a shard that does not read.
    """
    parts = _in_threads(manifest, range(len(manifest.shards)), lambda shard: _labels_of(manifest, shard))
    return np.concatenate([labels for labels, _ in parts]), np.concatenate([ids for _, ids in parts])


def label_values(manifest: Manifest) -> np.ndarray:
    """Labels of all rows as they stand, int64 [N], before the number of classes is known."""
    column = manifest.columns.label

    def one(shard: int) -> np.ndarray:
        table = _read(manifest, shard, None, [column])
        return _integers(manifest, shard, 0, column, table.column(column))

    return np.concatenate(_in_threads(manifest, range(len(manifest.shards)), one))


def read_row_group(manifest: Manifest, shard: int, row_group: int) -> pa.Table:
    """One row group as a table of `image` (large_binary), `label`, `id` and `index` (int64), checked.

    Raises:
        DataError: a shard that does not read, a null image or label, a label out of range.
    """
    columns = manifest.columns
    first = sum(manifest.shards[shard].row_groups[:row_group])
    image = columns.image if columns.image_kind == "binary" else f"{columns.image}.bytes"
    names = [image, columns.label, *([columns.id] if columns.id else [])]
    table = _read(manifest, shard, row_group, names)
    if table.num_rows != manifest.shards[shard].row_groups[row_group]:
        raise DataError("changed since its footer was read", where=manifest.shard_uri(shard), fix=AGAIN)
    images = table.column(columns.image)
    if columns.image_kind == "struct":
        _no_null(manifest, shard, first, columns.image, images)
        images = pc.struct_field(images, "bytes")
    _no_null(manifest, shard, first, columns.image, images)
    labels = _labels(manifest, shard, first, table.column(columns.label))
    ids = _ids(manifest, shard, first, table.num_rows, table.column(columns.id) if columns.id else None)
    index = np.arange(table.num_rows, dtype=np.int64) + int(manifest.offsets[shard]) + first
    return pa.table({"image": images.cast(pa.large_binary()), "label": labels, "id": ids, "index": index})


def read_rows(manifest: Manifest, index: np.ndarray) -> Rows:
    """The rows at dense numbers `index` int64 [n], in that order; duplicates are allowed.

    Each row group that holds one of them is read once.

    Raises:
        DataError: a shard that does not read, a null image or label, a label out of range.
        IndexError: a number outside 0..N-1.
    """
    index = np.ascontiguousarray(index, dtype=np.int64)
    if len(index) and (index.min() < 0 or index.max() >= manifest.num_samples):
        raise IndexError(f"rows {index.min()}..{index.max()} of a set of {manifest.num_samples}")
    images: list[bytes] = [b""] * len(index)
    labels, ids = np.empty(len(index), np.int64), np.empty(len(index), np.int64)
    group = manifest.group_of(index)
    order = np.argsort(group, kind="stable")
    needed, starts = np.unique(group[order], return_index=True)

    def one(number: int) -> None:
        slots = order[starts[number] : starts[number + 1] if number + 1 < len(starts) else len(order)]
        shard, row_group, first, _ = manifest.group(int(needed[number]))
        table = read_row_group(manifest, shard, row_group)
        local = index[slots] - first
        for slot, data in zip(slots.tolist(), images_at(table, local), strict=True):
            images[slot] = data
        labels[slots] = table.column("label").to_numpy()[local]
        ids[slots] = table.column("id").to_numpy()[local]

    _in_threads(manifest, range(len(needed)), one)
    return Rows(images, labels, ids, index)


def iter_rows(manifest: Manifest, index: np.ndarray, chunk: int = 4096) -> Iterator[Rows]:
    """`read_rows` over `index`, `chunk` rows at a time, so that a large set never stands in memory whole."""
    for start in range(0, len(index), chunk):
        yield read_rows(manifest, index[start : start + chunk])


def images_at(table: pa.Table, rows: np.ndarray | None = None) -> list[bytes]:
    """The encoded images of a `read_row_group` table at its row numbers `rows` int64 [n] (None: all)."""
    column = table.column("image").combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # an older pyarrow keeps one chunk wrapped
        column = column.chunk(0)
    if not len(column):
        return []
    _, offsets, values = column.buffers()
    # Slices of the value buffer: a hundred times faster than making a scalar of each row.
    ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    view = memoryview(values) if values is not None else memoryview(b"")
    if rows is None:
        rows = np.arange(len(column))
    return [bytes(view[a:b]) for a, b in zip(ends[rows].tolist(), ends[rows + 1].tolist(), strict=True)]


def _labels_of(manifest: Manifest, shard: int) -> tuple[np.ndarray, np.ndarray]:
    columns = manifest.columns
    table = _read(manifest, shard, None, [columns.label, *([columns.id] if columns.id else [])])
    if table.num_rows != manifest.shards[shard].rows:
        raise DataError("changed since its footer was read", where=manifest.shard_uri(shard), fix=AGAIN)
    labels = _labels(manifest, shard, 0, table.column(columns.label))
    return labels, _ids(manifest, shard, 0, table.num_rows, table.column(columns.id) if columns.id else None)


def _labels(manifest: Manifest, shard: int, first: int, column: pa.ChunkedArray) -> np.ndarray:
    labels = _integers(manifest, shard, first, manifest.columns.label, column)
    wrong = np.flatnonzero((labels < 0) | (labels >= manifest.num_classes))
    if len(wrong):
        row, classes = first + int(wrong[0]), manifest.num_classes
        raise DataError(
            f"row {row} has the label {labels[wrong[0]]}, but {classes} classes have labels 0..{classes - 1}",
            where=manifest.shard_uri(shard),
            fix="Correct the labels or data.classes; rows without a class (label -1) must be left out",
        )
    return labels


def _ids(manifest: Manifest, shard: int, first: int, rows: int, column: pa.ChunkedArray | None) -> np.ndarray:
    if column is None:
        return (np.int64(shard) << np.int64(32)) + np.arange(first, first + rows, dtype=np.int64)
    name = str(manifest.columns.id)
    if pa.types.is_integer(column.type):
        return _integers(manifest, shard, first, name, column)
    _no_null(manifest, shard, first, name, column)
    keys = column.cast(pa.large_binary()).to_pylist()
    return np.fromiter((text_id(key) for key in keys), np.int64, count=rows)


def text_id(key: bytes) -> int:
    """The int64 key of a string or bytes id: 63 bits of its BLAKE2b digest (10 million ids: 5e-6 odds of a clash)."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") & (2**63 - 1)


def _integers(manifest: Manifest, shard: int, first: int, name: str, column: pa.ChunkedArray) -> np.ndarray:
    _no_null(manifest, shard, first, name, column)
    try:
        return column.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as exc:
        problem = f"column {name!r} has values beyond 64-bit integers"
        raise DataError(problem, where=manifest.shard_uri(shard), fix="Use smaller numbers") from exc


def _no_null(manifest: Manifest, shard: int, first: int, name: str, column: pa.ChunkedArray) -> None:
    if column.null_count:
        row = first + pc.index(column.is_null(), True).as_py()
        fix = "Leave such rows out; an image must hold its bytes, not only a path"
        raise DataError(f"row {row} has no value in column {name!r}", where=manifest.shard_uri(shard), fix=fix)


def _read(manifest: Manifest, shard: int, row_group: int | None, columns: Sequence[str]) -> pa.Table:
    uri, size = manifest.shard_uri(shard), manifest.shards[shard].bytes
    remote = is_remote(manifest.folder)
    try:
        if not remote:
            return _read_local(uri, size, manifest.fingerprint, row_group, columns)
        try:
            return read_table(uri, size, manifest.fingerprint, row_group, columns)
        except (pa.ArrowException, OSError) as exc:
            # Damaged on its way, perhaps: what is damaged in the storage is so the second time too.
            log.warning("%s: does not read (%s), reading it again", uri, _one_line(exc))
            return read_table(uri, size, manifest.fingerprint, row_group, columns)
    except FileNotFoundError as exc:
        raise _missing(uri) from exc
    except pa.ArrowException as exc:
        raise DataError(f"does not read: {_one_line(exc)}", where=uri, fix=AGAIN) from exc
    except OSError as exc:
        if exc.errno is None:  # Parquet's own complaints come as OSError without a number
            raise DataError(f"does not read: {_one_line(exc)}", where=uri, fix=AGAIN) from exc
        raise explain(exc, uri, "read") from exc
    except StoreError as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            raise _missing(uri) from exc
        raise


def _missing(uri: str) -> DataError:
    fix = "Copy the set again, whole"
    if "://" not in uri:
        fix += "; on a cluster of several machines use a folder that all of them share, or object storage"
    return DataError("is missing", where=uri, fix=fix)


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200]


def _read_local(uri: str, size: int, fingerprint: str, row_group: int | None, columns: Sequence[str]) -> pa.Table:
    files, path = open_uri(uri)
    with files.open_input_file(path) as source:
        if source.size() != size:
            raise DataError(f"has {source.size()} bytes instead of {size}: cut off or changed", where=uri, fix=AGAIN)
        known = footer(uri, size, fingerprint)
        FOOTERS.check((uri, size, fingerprint), known, version_of(os.stat(path)))
        with pq.ParquetFile(source, metadata=known.metadata, page_checksum_verification=True) as shard:
            # Threads are ours, one per row group: Arrow's own would compete with them.
            if row_group is None:
                return shard.read(columns=list(columns), use_threads=False)
            return shard.read_row_group(row_group, columns=list(columns), use_threads=False)


def _in_threads(manifest: Manifest, items: Sequence[T], work: Callable[[T], R]) -> list[R]:
    remote = is_remote(manifest.folder)
    threads = min(len(items), REMOTE_THREADS if remote else min(4, os.cpu_count() or 1))
    if threads <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))
