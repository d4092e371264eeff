"""Small sets of shards for the tests of the format, of our own writing and of others'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdray.data.shards import (
    Manifest,
    Sample,
    write_shards,
)
from kdray.errors import KdrayError

NAMES = ("cat", "dog", "owl")


def some(count: int, seed: int = 0, ids: str | None = None) -> list[Sample]:
    rng = np.random.default_rng(seed)
    make = {None: lambda _: None, "int": lambda row: 7 * row + 3, "str": lambda row: f"image {row}"}[ids]
    return [Sample(rng.bytes(int(rng.integers(1, 500))), int(rng.integers(3)), make(row)) for row in range(count)]


def write(samples: Sequence[Sample], dest: Path | str, **more: object) -> Manifest:
    options = {"class_names": NAMES, "shard_bytes": 10_000, "row_group_rows": 16} | more
    return write_shards(samples, str(dest), **options)  # type: ignore[arg-type]


def parquet(path: Path, columns: dict[str, object], metadata: dict[str, str] | None = None, **options: object) -> Path:
    """A file that another program might have written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path, **{"row_group_size": 4, **options})
    return path


def images(count: int) -> pa.Array:
    return pa.array([bytes([number]) * (number + 1) for number in range(count)], pa.binary())


def structs(count: int) -> pa.Array:
    return pa.array([{"bytes": bytes([number]) * (number + 1), "path": f"{number}.png"} for number in range(count)])


def told(error: pytest.ExceptionInfo[KdrayError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
