"""Images in the rows of Parquet files. A row group is read whole, once, for all rows that are asked of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdray.data.pack.collection import BadItem, Collection
from kdray.data.reader import images_at
from kdray.data.remote import is_remote, read_table, read_tail
from kdray.errors import DataError, StoreError
from kdray.store.store import explaining

WINDOW_BYTES, WINDOW_ROWS = 64 << 20, 4096
GROUP_BYTES = 256 << 20  # of all row groups that are in memory at once, about
MOST_THREADS = 4

Got = bytes | BadItem


class ParquetRows(Collection):
    """Items are the row `row` of row group `group` of `files[file]` (int32 each), `sizes` the files' bytes,
    `group_bytes` what the images of the largest row group take.

    `block` numbers the row groups of all files: items of one block are read at the price of one.
    """

    def __init__(
        self, items: pa.Table, files: Sequence[str], sizes: Sequence[int], image: str, group_bytes: int, **given: Any
    ) -> None:
        self.files, self.sizes, self.image, self.group_bytes = tuple(files), tuple(sizes), image, group_bytes
        super().__init__(items, **given)

    def read(self, items: pa.Table) -> Iterator[Got]:
        file, group, row, size = (items.column(name).to_numpy() for name in ("file", "group", "row", "bytes"))
        first = 0
        with ThreadPoolExecutor(min(MOST_THREADS, max(1, GROUP_BYTES // max(1, self.group_bytes)))) as pool:
            while first < len(file):
                count = int(np.searchsorted(np.cumsum(size[first : first + WINDOW_ROWS]), WINDOW_BYTES, side="right"))
                last = min(first + max(1, count), len(file))
                order = np.lexsort((row[first:last], group[first:last], file[first:last])) + first
                cuts = np.flatnonzero(np.diff(file[order]) | np.diff(group[order])) + 1
                slots: list[Got | None] = [None] * (last - first)
                reads: list[tuple[np.ndarray, Future[list[Got]]]] = []
                for rows in np.split(order, cuts):
                    place = int(file[rows[0]]), int(group[rows[0]])
                    reads.append((rows, pool.submit(self._group, *place, row[rows])))
                for rows, read in reads:
                    for at, got in zip(rows.tolist(), read.result(), strict=True):
                        slots[at - first] = got
                yield from (got for got in slots if got is not None)
                first = last

    def place(self, row: int) -> str:
        file, group, at = (self.items.column(name)[row].as_py() for name in ("file", "group", "row"))
        return f"row {at} of row group {group} of {self.files[file]}"

    def _group(self, number: int, group: int, rows: np.ndarray) -> list[Got]:
        """The images at `rows` of one row group."""
        uri = self.files[number]
        try:
            images = self._read(number, group)
            if rows.max() >= len(images):
                return [BadItem(f"{uri} has changed since it was listed")] * len(rows)
        except Unreadable as exc:
            return [BadItem(f"{uri} no longer reads: {exc}")] * len(rows)
        except FileNotFoundError:
            return [BadItem(f"{uri} is missing")] * len(rows)
        null = images.is_null().to_numpy(zero_copy_only=False)[rows]
        data = images_at(pa.table({"image": images.cast(pa.large_binary()).fill_null(b"")}), rows)
        return [BadItem("its row has no bytes") if none else got for none, got in zip(null.tolist(), data, strict=True)]

    def _read(self, number: int, group: int) -> Any:
        table = read_columns(self.files[number], self.sizes[number], self.fingerprint, group, [self.image])
        column = table.column(0)
        return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


class Unreadable(Exception):
    """A file that is no Parquet, is damaged, or has another size than before; `str()` says what."""


def read_footer(uri: str, size: int) -> pq.FileMetaData:
    """The footer of a file; raises as `read_columns`."""
    with _telling(uri):
        return pq.read_metadata(pa.BufferReader(read_tail(uri, size)))


def read_columns(uri: str, size: int, key: str, group: int | None, columns: Sequence[str]) -> pa.Table:
    """Columns of one row group, or of all, of a file of `size` bytes; `key` tells this version of it from others.

    Raises:
        FileNotFoundError: there is no such file.
        Unreadable: it is not what it should be.
        StoreError: the storage fails.
    """
    with _telling(uri):
        if is_remote(uri):
            return read_table(uri, size, key, group, columns)
        with open(uri, "rb") as source:
            if (now := os.fstat(source.fileno()).st_size) != size:
                raise Unreadable(f"has {now} bytes instead of {size}: cut off or changed")
            with pq.ParquetFile(source) as file:
                if group is None:
                    return file.read(list(columns), use_threads=False)
                return file.read_row_group(group, columns=list(columns), use_threads=False)


@contextlib.contextmanager
def _telling(uri: str) -> Iterator[None]:
    try:
        yield
    except StoreError as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            raise exc.__cause__ from exc
        raise
    except FileNotFoundError:
        raise
    except DataError as exc:
        raise Unreadable(exc.problem) from exc
    except pa.ArrowException as exc:
        raise Unreadable(" ".join(str(exc).split())[:120]) from exc
    except OSError as exc:
        if exc.errno is None:  # Parquet's own complaints come as OSError without a number
            raise Unreadable(" ".join(str(exc).split())[:120]) from exc
        with explaining(uri, "read"):
            raise
