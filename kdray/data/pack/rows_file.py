"""`manifest.rows`, beside a packed set's manifest: a digest of every row, and the rows of each class in each shard.

They are 20 MB for a million rows, too much for a manifest that every reader opens. Only `verify` reads them, so that it
can name the very rows that have changed. The name has no known ending, so that nobody takes it for data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdray.data.pack.parts import Part
from kdray.data.shard_file import DIGEST_BYTES

ROWS_FILE = "manifest.rows"
KEY = "row_digests"  # of the manifest; older sets have none
_FORMAT = "kdray_rows"


class ShardRows(NamedTuple):
    """`digests` of the rows, `DIGEST_BYTES` each and one after the other; `class_counts` are (label, rows)."""

    digests: bytes
    class_counts: tuple[tuple[int, int], ...]

    def digest(self, row: int) -> bytes:
        return self.digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]

    @property
    def rows(self) -> int:
        return len(self.digests) // DIGEST_BYTES


def rows_content(parts: Sequence[Part]) -> bytes:
    """What the file holds for the shards `parts`."""
    shards = {part.shard.name: {"digests": part.row_digests.hex(), "class_counts": part.class_counts} for part in parts}
    return json.dumps({"format": _FORMAT, "version": 1, "shards": shards}, separators=(",", ":")).encode()


def reference(content: bytes) -> dict[str, Any]:
    """What the manifest says of the file, under `KEY`."""
    return {"file": ROWS_FILE, "sha256": hashlib.sha256(content).hexdigest()}


def read_rows(content: bytes, said: Mapping[str, Any]) -> dict[str, ShardRows]:
    """Rows of each shard by name; `said` is the manifest's `reference`.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: other bytes than were written, or damaged.
    """
    if hashlib.sha256(content).hexdigest() != said["sha256"]:
        raise ValueError("its bytes are not those that were written (SHA-256)")
    return {
        str(name): ShardRows(
            bytes.fromhex(shard["digests"]), tuple((int(label), int(rows)) for label, rows in shard["class_counts"])
        )
        for name, shard in json.loads(content)["shards"].items()
    }
