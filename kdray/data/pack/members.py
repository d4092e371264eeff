"""A collection whose items are runs of bytes in files: members of tars, rows of a binary file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from kdray.data.pack.collection import BadItem, Collection
from kdray.data.pack.ranges import read_ranges


class Members(Collection):
    """Items are `bytes` bytes at `offset` of `files[file]`; `file` (int32) and `offset` (int64) are private columns."""

    def __init__(self, items: pa.Table, files: Sequence[str], **given: Any) -> None:
        self.files = tuple(files)
        super().__init__(items, **given)

    def read(self, items: pa.Table) -> Iterator[bytes | BadItem]:
        columns = (items.column(name).to_numpy() for name in ("file", "offset", "bytes"))
        return read_ranges(self.files, *columns)

    def place(self, row: int) -> str:
        file, offset = (self.items.column(name)[row].as_py() for name in ("file", "offset"))
        path = self.items.column("path")[row].as_py()
        return f"{path} in {self.files[file]} at byte {offset}"
