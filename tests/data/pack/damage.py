"""A packed set to damage, and how its verdict is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kdray.data.manifest_json import MANIFEST
from kdray.data.pack.verify import Verdict

ROWS = 90  # of the packed set


def shard(folder: Path, number: int = 1) -> Path:
    return sorted(folder.glob("*.parquet"))[number]


def rewrite(path: Path, change: Callable[[list[dict[str, object]]], None]) -> None:
    """Write a shard anew with changed rows, as another program would, in the same row groups and bytes a row."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    whole = pa.Table.from_pylist(rows, table.schema)
    pq.write_table(
        whole,
        path,
        row_group_size=8,
        compression="none",
        use_dictionary=False,
        write_statistics=["label"],
        write_page_checksum=True,
    )


def told(verdict: Verdict, *texts: str) -> None:
    problems = "\n".join(map(str, verdict.problems))
    assert not verdict.good
    for text in texts:
        assert text in problems, problems


def change(folder: Path, **keys: object) -> None:
    """Give the manifest other values."""
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
