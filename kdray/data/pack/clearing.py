"""What `--fresh` deletes: the files that a packing says are its own, and nothing else."""

from __future__ import annotations

from typing import Any

from kdray.data.layout import shard_name
from kdray.data.manifest_json import MANIFEST, PACKING, WRITING
from kdray.data.pack.destination import OTHER, PARTS, Destination, is_packed, visible
from kdray.data.pack.rows_file import ROWS_FILE
from kdray.errors import DataError


def doomed(destination: Destination) -> set[str] | None:
    """Names of the shards that `clear` would delete; None when there is no packing.

    Raises:
        DataError: what is there is no packing, or shards that are not its own lie there too.
        StoreError: the storage fails.
    """
    there = visible(destination.store.list())
    marks = there & {MANIFEST, WRITING}
    if not marks:
        return None
    ours: set[str] = set()
    for name in sorted(marks):
        said = destination.said(name)
        if not is_packed(said):
            raise DataError("holds a set that was not packed by `kdray shard`", where=destination.uri, fix=OTHER)
        ours |= _shards(said)
    strangers = sorted(name for name in there - ours if name.endswith(".parquet"))
    if strangers:
        some = ", ".join(strangers[:3]) + (", ..." if len(strangers) > 3 else "")
        problem = f"holds Parquet files that are not of the packing there: {some}; nothing was deleted"
        raise DataError(problem, where=destination.uri, fix="Move them away or pack into another folder")
    return ours & there


def clear(destination: Destination) -> bool:
    """Delete what a packing left here, whole or not; False when there was none.

    Everything is looked at before anything is deleted, and a deletion that was cut off is gone on with.

    Raises:
        DataError, StoreError: as `doomed`.
    """
    ours = doomed(destination)
    if ours is None:
        return False
    store = destination.store
    if not store.exists(WRITING):  # a half-deleted set must not look whole
        marker = {"format": PACKING, "version": 1, "identity": "being deleted", "deleting": sorted(ours)}
        store.write_json(WRITING, marker)
    store.delete(MANIFEST)
    store.delete(ROWS_FILE)
    for name in sorted(ours):
        store.delete(name)
    store.delete(PARTS)
    store.delete(WRITING)
    return True


def _shards(said: dict[str, Any]) -> set[str]:
    """Names of the shards that a manifest lists, or that the plan of a marker has."""
    try:
        names = {str(shard["name"]) for shard in said.get("shards", ())} if "packing" in said else set()
        if "packing" not in said and "split" in said:
            count = int(said["shards"])
            names = {shard_name(str(said["split"]), number, count) for number in range(count)}
        return names | {str(name) for name in said.get("deleting", ())}
    except (KeyError, TypeError, ValueError):
        return set()  # then its shards are strangers, which are named
