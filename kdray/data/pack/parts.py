"""One shard of a packing, from its items to its file: what a task does, and the record that it leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kdray.data.decode import BadImage, decode
from kdray.data.layout import BadFile, ShardInfo
from kdray.data.pack.collection import BadItem, Collection
from kdray.data.pack.options import PackOptions, encoder
from kdray.data.pack.reencode import Prepared, prepare
from kdray.data.pack.seen import check_seen
from kdray.data.pack.statistics import Tally
from kdray.data.shard_file import ShardDigests, ShardWriter, row_digest, shard_schema
from kdray.errors import DataError, StoreError

if TYPE_CHECKING:
    from kdray.data.pack.destination import Destination
    from kdray.data.pack.plan import Plan

NAMED = 5  # bad files that an error names


class Stopped(Exception):
    """The packing ends before this task does."""


@dataclass(frozen=True)
class Part:
    """One finished shard; `row_digests` are those of its rows one after the other, `class_counts` are (label, rows),
    `reencoded` of its images are not the source's bytes.
    """

    shard: ShardInfo
    digests: ShardDigests
    row_digests: bytes
    image_bytes: int
    source_bytes: int
    reencoded: int
    class_counts: tuple[tuple[int, int], ...]
    tally: Tally
    bad: tuple[BadFile, ...]

    def to_json(self) -> dict[str, Any]:
        told = {"row_digests": self.row_digests.hex(), "tally": self.tally.to_json()}
        return asdict(self) | told | {"bad": [list(bad) for bad in self.bad]}

    @staticmethod
    def from_json(said: dict[str, Any]) -> Part:
        """Raises KeyError, TypeError or ValueError for what `to_json` did not make."""
        shard, digests = said["shard"], said["digests"]
        return Part(
            shard=ShardInfo(shard["name"], shard["rows"], shard["bytes"], tuple(shard["row_groups"])),
            digests=ShardDigests(digests["sha256"], tuple(digests["row_groups"])),
            row_digests=bytes.fromhex(said["row_digests"]),
            image_bytes=int(said["image_bytes"]),
            source_bytes=int(said["source_bytes"]),
            reencoded=int(said["reencoded"]),
            class_counts=tuple((int(label), int(rows)) for label, rows in said["class_counts"]),
            tally=Tally.from_json(said["tally"]),
            bad=tuple(BadFile(str(path), str(reason)) for path, reason in said["bad"]),
        )


@dataclass(frozen=True)
class Job:
    """What every task of a packing needs; sent to the cluster once."""

    collection: Collection
    options: PackOptions
    destination: Destination
    plan: Plan
    identity: str
    items: int
    encoder: str | None

    def too_many_bad(self, bad: Sequence[BadFile]) -> DataError | None:
        """The error that ends the packing, when `bad` are more than the options allow."""
        limit = self.options.bad_limit(self.items)
        if len(bad) <= limit:
            return None
        some = ", ".join(f"{path} ({reason})" for path, reason in bad[:NAMED])
        return DataError(
            f"{len(bad)} of {self.items} images of split {self.collection.split!r} cannot be used, "
            f"more than the {limit} that may be left out: {some}" + (", ..." if len(bad) > NAMED else ""),
            where=self.collection.uri,
            fix="Repair or remove them, or raise --max-bad; what is packed is kept",
        )


def pack_shard(
    job: Job, number: int, items: pa.Table, ranks: np.ndarray, stopped: Callable[[], bool] = lambda: False
) -> Part:
    """Read, check and write shard `number`, and leave its record.

    `items` are its rows of the collection in the source's order, `ranks` int64 [n] the place of each in the shard.

    Raises:
        DataError: more bad images in this shard than the whole set may have, or the folder belongs to another packing.
        StoreError: the storage fails.
        Stopped: `stopped()`.
    """
    _check_node(job)
    job.destination.check_ours(job.identity)
    rows, tally, bad_at = _prepare(job, items, ranks, stopped)
    paths, labels = items.column("path").to_pylist(), items.column("label").to_pylist()
    counts: Counter[int] = Counter()
    row_digests = bytearray()
    schema = shard_schema(job.collection.class_names, pa.string())
    with job.destination.scratch(job.plan.name(number)) as path:
        with ShardWriter(path, schema, job.options.row_group_rows) as writer:
            for at in np.argsort(ranks).tolist():
                row = rows[at]
                if row is not None:
                    writer.add(row.data, labels[at], paths[at], paths[at])
                    row_digests += row_digest(row.data, labels[at], paths[at])
                    counts[labels[at]] += 1
            info, digests = writer.close()
        part = Part(
            shard=ShardInfo(job.plan.name(number), info.rows, info.bytes, info.row_groups),
            digests=digests,
            row_digests=bytes(row_digests),
            image_bytes=writer.image_bytes,
            source_bytes=job.plan.source_bytes(number),
            reencoded=sum(row is not None and row.reencoded for row in rows),
            class_counts=tuple(sorted(counts.items())),
            tally=tally,
            bad=tuple(bad_at[at] for at in np.argsort(ranks).tolist() if at in bad_at),
        )
        job.destination.keep(job.plan, number, path, part, job.identity)
    return part


def _prepare(
    job: Job, items: pa.Table, ranks: np.ndarray, stopped: Callable[[], bool]
) -> tuple[list[Prepared | None], Tally, dict[int, BadFile]]:
    """Encoded images of a shard as they will be stored (None: left out), in the order of `items`."""
    rows: list[Prepared | None] = []
    tally, bad = Tally(), dict[int, BadFile]()
    refused: list[StoreError] = []
    paths = items.column("path").to_pylist()
    for at, data in zip(range(len(ranks)), job.collection.read(items), strict=True):
        if stopped():
            raise Stopped
        row, reason = stored(data, job.options)
        if isinstance(data, BadItem) and data.error is not None:
            refused.append(data.error)
        if row is None:
            bad[at] = BadFile(paths[at], reason)
            error = job.too_many_bad(list(bad.values()))
            if error is not None:
                raise error
            rows.append(None)
            continue
        tally.add(row.size)
        if job.options.mean_std:
            tally.add_pixels(decode(row.data) if row.pixels is None else row.pixels)
        rows.append(row._replace(pixels=None))
    if len(refused) == len(rows) > 1:
        raise refused[0]  # then it is not these files: a ticket has expired, a disk is broken
    return rows, tally, bad


def stored(data: bytes | BadItem, options: PackOptions) -> tuple[Prepared | None, str]:
    """What is stored of an item that was read, or None and why it is left out."""
    if isinstance(data, BadItem):
        return None, data.reason
    try:
        return prepare(data, options), ""
    except BadImage as exc:
        return None, str(exc)


def _check_node(job: Job) -> None:
    """Raise DataError on a node that would encode otherwise, or does not see the source's folder: all its images would
    seem to be gone.
    """
    if encoder(job.options) != job.encoder:
        fix = "Install the same libraries on all nodes"
        raise DataError(f"a node has {encoder(job.options)}, and the packing began with {job.encoder}", fix=fix)
    if not job.collection.here:
        check_seen(job.collection.uri)
