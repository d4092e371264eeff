"""Which finished shards a packing that goes on may keep: all whose bad files are still bad."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from kdray.data.pack.parts import Job, Part, stored


def standing_parts(job: Job) -> tuple[dict[int, Part], list[int]]:
    """(finished shards by number, numbers of those that were finished without a file that can be used now).

    A file that is repaired keeps its name and maybe its size, so the listing does not tell; and what was missing may be
    back. Only the files that were bad are read again.

    Raises:
        StoreError: the storage fails.
    """
    parts = job.destination.parts(job.plan, job.identity)
    was = {bad.path: (number, bad.reason) for number, part in parts.items() for bad in part.bad}
    if not was:
        return parts, []
    items = job.collection.items
    items = items.filter(pc.is_in(items.column("path"), pa.array(list(was), pa.string())))
    stale: set[int] = set()
    for path, data in zip(items.column("path").to_pylist(), job.collection.read(items), strict=True):
        number, reason = was[path]
        row, now = stored(data, job.options)
        if row is not None or now != reason:
            stale.add(number)
    return {number: part for number, part in parts.items() if number not in stale}, sorted(stale)
