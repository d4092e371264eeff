"""Counting the images that do not decode: a few are replaced and told of, many stop the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping

import numpy as np

from kdray.data.manifest import Manifest
from kdray.errors import DataError

log = logging.getLogger(__name__)

_NAMED = 5
_ELSEWHERE = "met by another worker, or before this process"
_BLOCK = 16  # rows of a batch among which a bad one's stand-in is sought


class BadImages:
    """The distinct bad rows that this rank met or was told of. `total` is the number of rows in the split."""

    def __init__(self, manifest: Manifest, total: int, max_fraction: float | None = None) -> None:
        self._manifest = manifest
        self._total = total
        self._max_fraction = max_fraction
        self._rows: dict[int, str] = {}
        self._told: set[int] = set()
        self._warnings = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> frozenset[int]:
        """Dense numbers of the bad rows."""
        return frozenset(self._rows)

    def clear(self) -> None:
        """Forget them: a new pass begins."""
        self._rows = {}

    def share(self, rows: Iterable[int]) -> None:
        """Take up rows that were met elsewhere, whose reasons are told there.

        Raises:
            DataError: more than `max_fraction` of all rows are bad.
        """
        elsewhere = {row: _ELSEWHERE for row in rows if row not in self._rows}
        self._told |= elsewhere.keys()
        self.add(elsewhere)

    def add(self, rows: Mapping[int, str]) -> None:
        """Take up bad rows: dense row number -> reason.

        Raises:
            DataError: more than `max_fraction` of all rows are bad; names the first ones.
        """
        new = {row: reason for row, reason in rows.items() if row not in self._rows}
        if not new:
            return
        self._rows |= new
        if self._max_fraction is not None and len(self._rows) > self._max_fraction * self._total:
            raise DataError(
                f"{len(self._rows)} of {self._total} images do not decode: {self.named()}",
                where=self._manifest.uri,
                fix=f"Write these rows again, or raise data.max_bad_fraction (now {self._max_fraction:g})",
            )
        for row in new.keys() - self._told:
            if self._warnings < _NAMED:
                self._told.add(row)
                self._warnings += 1
                log.warning("%s does not decode (%s)", self._manifest.position(row), new[row])

    def named(self) -> str:
        """The first of them: shard, row and reason."""
        first = sorted(self._rows)[:_NAMED]
        said = ", ".join(f"{self._manifest.position(row)} ({self._rows[row]})" for row in first)
        return said + (", ..." if len(self._rows) > _NAMED else "")


def stand_ins(good: np.ndarray) -> np.ndarray:
    """Which row of a worker's part of a batch stands at each place, int64 [..., b], for `good` bool [..., b].

    A bad row's place is taken by the first good one of its block of 16 rows of the global batch, so that the batch is
    the same for any number of workers whose parts are whole blocks; where a block has none, by the first of the part.
    """
    rows = good.shape[-1]
    block = math.gcd(rows, _BLOCK)
    blocks = good.reshape(*good.shape[:-1], rows // block, block)
    first = blocks.argmax(-1) + np.arange(0, rows, block)
    first = np.where(blocks.any(-1), first, good.argmax(-1)[..., None])
    return np.where(good, np.arange(rows), np.repeat(first, block, axis=-1))
