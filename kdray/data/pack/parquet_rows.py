"""Images in the rows of Parquet files. A row group is read whole, once, for all rows that are asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdray.data.pack.collection import BadItem, Collection
from kdray.data.reader import images_at
from kdray.errors import DataError
from kdray.store import open_uri
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
        footers: dict[int, Any] = {}
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
                    reads.append((rows, pool.submit(self._group, footers, *place, row[rows])))
                for rows, read in reads:
                    for at, got in zip(rows.tolist(), read.result(), strict=True):
                        slots[at - first] = got
                yield from (got for got in slots if got is not None)
                first = last

    def place(self, row: int) -> str:
        file, group, at = (self.items.column(name)[row].as_py() for name in ("file", "group", "row"))
        return f"row {at} of row group {group} of {self.files[file]}"

    def _group(self, footers: dict[int, Any], number: int, group: int, rows: np.ndarray) -> list[Got]:
        """The images at `rows` of one row group."""
        uri = self.files[number]
        try:
            try:
                images = self._read(footers, number, group)
            except FileNotFoundError:
                return [BadItem(f"{uri} is missing")] * len(rows)
            if rows.max() >= len(images):
                return [BadItem(f"{uri} has changed since it was listed")] * len(rows)
        except (DataError, pa.ArrowException) as exc:
            return [BadItem(f"{uri} no longer reads: {' '.join(str(exc).split())[:120]}")] * len(rows)
        except OSError as exc:
            if exc.errno is None and "AWS" not in str(exc) and "google" not in str(exc):  # Parquet's own complaint
                return [BadItem(f"{uri} no longer reads: {' '.join(str(exc).split())[:120]}")] * len(rows)
            with explaining(uri, "read"):
                raise
        null = images.is_null().to_numpy(zero_copy_only=False)[rows]
        data = images_at(pa.table({"image": images.cast(pa.large_binary()).fill_null(b"")}), rows)
        return [BadItem("its row has no bytes") if none else got for none, got in zip(null.tolist(), data, strict=True)]

    def _read(self, footers: dict[int, Any], number: int, group: int) -> Any:
        files, path = open_uri(self.files[number])
        with files.open_input_file(path) as source:
            if source.size() != self.sizes[number]:
                raise DataError(f"it has {source.size()} bytes instead of {self.sizes[number]}")
            remote = "://" in self.files[number]
            with pq.ParquetFile(source, metadata=footers.get(number), pre_buffer=remote) as file:
                footers[number] = file.metadata
                table = file.read_row_group(group, columns=[self.image], use_threads=False)
        column = table.column(0)
        return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
