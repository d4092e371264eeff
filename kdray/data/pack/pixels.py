"""Collections whose source keeps bare pixels: each image becomes a PNG, which loses nothing, when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from kdray.data.pack.collection import BadItem, Collection
from kdray.data.pack.ranges import read_ranges


class Pixels(Collection):
    """Items are uint8 [3, side, side] at `offset` of `files[file]`, red plane first; row by row, or column by column.

    `items.bytes` is the size of the pixels: a PNG is about as large.
    """

    def __init__(self, items: pa.Table, files: Sequence[str], side: int, by_column: bool = False, **given: Any) -> None:
        self.files, self.side, self.by_column = tuple(files), side, by_column
        super().__init__(items, **given)

    def read(self, items: pa.Table) -> Iterator[bytes | BadItem]:
        from kdray.data.decode import encode_png

        order = (2, 1, 0) if self.by_column else (1, 2, 0)
        columns = (items.column(name).to_numpy() for name in ("file", "offset", "bytes"))
        for got in read_ranges(self.files, *columns):
            if isinstance(got, BadItem):
                yield got
            else:
                planes = np.frombuffer(got, np.uint8).reshape(3, self.side, self.side)
                yield encode_png(np.ascontiguousarray(planes.transpose(order)))

    def place(self, row: int) -> str:
        return str(self.items.column("path")[row].as_py())
