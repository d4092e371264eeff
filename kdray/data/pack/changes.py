"""Rows of a shard that are not those that were written, told from the digests that were kept of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kdray.data.pack.rows_file import ROWS_FILE
from kdray.data.shard_file import row_digest

if TYPE_CHECKING:
    from kdray.data.pack.check import Checked, Expected

CHANGED = "holds another label, id or image than was written"


@dataclass(frozen=True)
class Rows:
    """The columns of some rows; `ids` None: they have none."""

    images: pa.ChunkedArray
    labels: pa.ChunkedArray
    ids: pa.Array | None

    def __iter__(self) -> Iterator[Any]:
        """(image, a binary scalar; label; id) of each."""
        ids: list[Any] = self.ids.to_pylist() if self.ids is not None else [None] * len(self.images)
        return iter(zip(self.images, self.labels.to_pylist(), ids, strict=True))


def written_as(label: int | None, key: Any) -> tuple[int, str | int | None]:
    """Label and id as a digest takes them."""
    return -1 if label is None else label, key if isinstance(key, str | int | None) else str(key)


class Changes:
    """Compares the row groups of one shard, one after the other, and adds to `result` what has changed."""

    def __init__(self, expected: Expected, sizes: tuple[int, ...], result: Checked) -> None:
        self._expected, self._sizes, self._result = expected, sizes, result
        self._same_groups = sizes == expected.row_groups
        rows = expected.rows
        self._same_count = rows is not None and rows.rows == sum(sizes)
        # Where rows were added or removed, those behind them stand elsewhere, and are known by their content alone.
        self._wrote = set() if rows is None or self._same_count else set(map(rows.digest, range(rows.rows)))
        self._gone = set(self._wrote)
        self.unread = False  # a row group does not read

    def look(self, group: int, first: int, rows: Rows, digest: str, named: set[int]) -> None:
        """Compare a row group that begins at row `first` and has `digest`; the rows `named` are told as wrong."""
        expected = self._expected
        digests, sizes = expected.digests or (), expected.row_groups or ()
        there = group < len(digests) and group < len(sizes) and sizes[group] == self._sizes[group]
        differs = there and digest != digests[group]
        if self._same_groups and not differs:
            return
        changed = self._changed(first, rows) if expected.rows is not None else {}
        for row, key in changed.items():
            if row not in named:
                self._result.add(CHANGED, row, key)
        if differs and not changed and (expected.rows is None or self._same_groups):
            told = f"rows {first} to {first + self._sizes[group] - 1}"
            self._result.add(f"row group {group} ({told}) holds other labels, ids or images than were written", first)

    def end(self) -> None:
        """Say what only the whole shard tells."""
        rows, result = self._expected.rows, self._result
        if self._gone and not self.unread:
            result.add(f"lacks {len(self._gone)} of the rows that were written")
        if rows is not None and not result.problems and dict(rows.class_counts) != dict(result.class_counts):
            result.add(f"has not the rows of each class that {ROWS_FILE} says")

    def _changed(self, first: int, rows: Rows) -> dict[int, Any]:
        """Ids of the rows that are not as they were written, by row."""
        written, changed = self._expected.rows, dict[int, Any]()
        assert written is not None
        for row, (image, label, key) in enumerate(rows, first):
            digest = row_digest(image.as_buffer().to_pybytes(), *written_as(label, key)) if image.is_valid else b""
            self._gone.discard(digest)
            if digest != written.digest(row) if self._same_count else digest not in self._wrote:
                changed[row] = key
        return changed
