"""`pack`: a collection becomes a set of shards, in parallel, whole or to be gone on with."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

import kdray
from kdray.data.decode import BadImage
from kdray.data.layout import BadFile, Manifest, Packing, ShardColumns
from kdray.data.manifest import read_manifest
from kdray.data.manifest_json import to_json
from kdray.data.pack.apart import check_apart
from kdray.data.pack.clearing import clear, doomed
from kdray.data.pack.collection import BadItem, Collection
from kdray.data.pack.destination import FRESH, Destination
from kdray.data.pack.options import PackOptions, encoder, identity
from kdray.data.pack.parts import Job, Part, pack_shard
from kdray.data.pack.plan import Plan, item_order, make_plan
from kdray.data.pack.reencode import prepare
from kdray.data.pack.resume import standing_parts
from kdray.data.pack.rows_file import KEY, reference, rows_content
from kdray.data.pack.statistics import Tally
from kdray.data.pack.tasks import Call, run_tasks
from kdray.errors import DataError, KdrayError
from kdray.store.place import parse

SAMPLED = 64  # images that are re-encoded beforehand, to know how many fill a shard


class Progress(Protocol):
    """Who is told how a packing goes."""

    def begin(self, title: str, shards: int, images: int, source_bytes: int) -> None:
        """A split begins."""

    def part(self, images: int, source_bytes: int, bad: int, resumed: bool) -> None:
        """A shard is done, or was found done (`resumed`)."""

    def end(self, packed_already: bool) -> None:
        """A split is whole."""


def pack(
    collection: Collection,
    dest_uri: str,
    options: PackOptions | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    fresh: bool = False,
) -> Manifest:
    """Write `collection` as Parquet shards into the folder `dest_uri`, and return their manifest.

    A packing that was stopped in any way goes on with the shards that are missing; the set is the same, byte for byte,
    whoever wrote which part of it. A set that is there already, of the same source with the same options, is kept.

    Args:
        workers: tasks at a time on the Ray cluster (None: as many as it has CPUs), 0 for threads of this process.
        fresh: first delete what a packing has left at `dest_uri`.

    Raises:
        DataError: something else at the destination, too many bad images, a source that is not to be seen.
        StoreError: no space, no permission, no answer.
        ClusterError: the cluster does not answer, or its tasks die.
    """
    options = options or PackOptions()
    destination = Destination(parse(dest_uri).uri)
    check_apart(collection, destination.uri)
    cleared = fresh and clear(destination)
    digest = identity(collection, options)
    try:
        standing = destination.standing(digest, beside=cleared)
        if standing is not None and "packing" in standing:
            return _kept(collection, destination, progress)
        plan = _plan(collection, options, destination, standing)
        if standing is None:
            destination.begin(_marker(collection, options, plan, digest))
        job = _job(collection, options, destination, plan, digest)
        destination.check_alone({plan.name(number) for number in range(plan.shards)}, destination.sizes())
        parts = _run(job, workers, progress)
        manifest = _manifest(job, parts)
        rows = rows_content(parts)
        content = to_json(manifest, [part.digests for part in parts]) | {KEY: reference(rows)}
        destination.finish(content, rows, digest)
    except KdrayError:
        if destination.is_finished(digest):  # by another packer, who then took away what this one relied on
            return _kept(collection, destination, progress)
        raise
    if progress is not None:
        progress.end(packed_already=False)
    return manifest


def plan_packing(
    collection: Collection, dest_uri: str, options: PackOptions, fresh: bool = False
) -> tuple[Plan | None, str]:
    """The plan of a packing (None: nothing to do) and in a few words what of it is there; nothing is written, and with
    `fresh` nothing deleted.

    Raises:
        DataError, StoreError: as `pack`.
    """
    destination = Destination(parse(dest_uri).uri)
    check_apart(collection, destination.uri)
    old = doomed(destination) if fresh else None
    if old is not None:
        told = "1 shard" if len(old) == 1 else f"{len(old)} shards"
        return _plan(collection, options, destination, None), f"{told} would be deleted"
    digest = identity(collection, options)
    standing = destination.standing(digest)
    if standing is not None and "packing" in standing:
        return None, "packed already"
    plan = _plan(collection, options, destination, standing)
    if standing is None:
        return plan, "to be packed"
    parts, _ = standing_parts(_job(collection, options, destination, plan, digest))
    return plan, f"begun: {len(parts)} shards are there"


def _plan(
    collection: Collection, options: PackOptions, destination: Destination, standing: dict[str, Any] | None
) -> Plan:
    """The plan of a packing that begins, or as it began."""
    if standing is None:
        return make_plan(collection, options, _ratio(collection, options))
    began, here = standing.get("encoder"), encoder(options)
    if began != here:
        fix = f"Go on with those libraries; {FRESH}"
        raise DataError(f"was begun with {began}, and here are {here}", where=destination.uri, fix=fix)
    return make_plan(collection, options, float(standing["ratio"]))


def _job(collection: Collection, options: PackOptions, destination: Destination, plan: Plan, digest: str) -> Job:
    return Job(collection, options, destination, plan, digest, collection.items.num_rows, encoder(options))


def _run(job: Job, workers: int | None, progress: Progress | None) -> list[Part]:
    """All parts, in order; those that are there are not made again, but for those whose bad files are repaired."""
    plan = job.plan
    parts, stale = standing_parts(job)
    for number in stale:  # never a record beside a shard that it is not of
        job.destination.forget(plan, number)
    bad: list[BadFile] = []

    def count(part: Part, resumed: bool) -> None:
        bad.extend(part.bad)
        if progress is not None:
            images = part.shard.rows + len(part.bad)
            progress.part(images, part.source_bytes, len(part.bad), resumed)
        error = job.too_many_bad(bad)
        if error is not None:
            raise error

    if progress is not None:
        title = _title(job.collection, job.destination)
        progress.begin(title, plan.shards, job.items, int(plan.bytes.sum()))
    for _, part in sorted(parts.items()):
        count(part, resumed=True)
    missing = [number for number in range(plan.shards) if number not in parts]

    def calls() -> Iterator[Call]:
        for number in missing:
            yield number, *plan.task(number, job.collection.items)

    # Only what is packed anew needs a cluster.
    if missing:
        with closing(run_tasks(_numbered, job, calls(), workers, here=job.collection.here)) as results:
            for number, part in results:
                parts[number] = part
                count(part, resumed=False)
    return [parts[number] for number in range(plan.shards)]


def _numbered(job: Job, number: int, items: pa.Table, ranks: np.ndarray, **more: Any) -> tuple[int, Part]:
    return number, pack_shard(job, number, items, ranks, **more)


def _title(collection: Collection, destination: Destination) -> str:
    return f"{collection.split} → {destination.uri}"


def _kept(collection: Collection, destination: Destination, progress: Progress | None) -> Manifest:
    manifest = read_manifest(destination.uri)
    destination.tidy()  # a packer may have been killed between its manifest and this
    if progress is not None:
        title = _title(collection, destination)
        progress.begin(title, len(manifest.shards), manifest.num_samples, manifest.image_bytes)
        progress.end(packed_already=True)
    return manifest


def _marker(collection: Collection, options: PackOptions, plan: Plan, digest: str) -> dict[str, Any]:
    return {
        "identity": digest,
        "kind": collection.kind,
        "split": collection.split,
        "images": collection.items.num_rows,
        "shards": plan.shards,
        "ratio": plan.ratio,
        "encoder": encoder(options),
    }


def _ratio(collection: Collection, options: PackOptions) -> float:
    """Bytes that re-encoding leaves of a byte of the source, from the first images of a random order."""
    if options.short_side is None:
        return 1.0
    numbers = np.sort(item_order(collection, PackOptions())[:SAMPLED])
    items = collection.items.take(pa.array(numbers))
    sizes = np.maximum(items.column("bytes").to_numpy(), 1).tolist()
    before = after = 0
    for size, data in zip(sizes, collection.read(items), strict=True):
        if isinstance(data, BadItem):
            continue
        try:
            after += len(prepare(data, options).data)
        except BadImage:
            continue
        before += size
    return after / before if before else 1.0


def _manifest(job: Job, parts: list[Part]) -> Manifest:
    collection, options = job.collection, job.options
    tally, counts = Tally(), Counter[int]()
    for part in parts:
        tally.merge(part.tally)
        counts.update(dict(part.class_counts))
    if not counts:
        raise DataError("no image of it can be used", where=collection.uri, fix="Check what the source holds")
    names = collection.class_names
    classes = collection.num_classes
    mean, std = tally.mean_std() or (None, None)
    content = [[part.digests.row_groups, part.shard.rows, part.shard.row_groups] for part in parts]
    described = json.dumps([content, names, classes, mean, std, collection.split])
    small = options.short_side is not None
    return Manifest(
        uri=job.destination.uri,
        folder=job.destination.uri,
        shards=tuple(part.shard for part in parts),
        columns=ShardColumns(id="id", image_kind="struct"),
        num_classes=classes,
        class_names=names,
        mean=mean,
        std=std,
        image_bytes=sum(part.image_bytes for part in parts),
        fingerprint=hashlib.blake2b(described.encode(), digest_size=16).hexdigest(),
        class_counts=tuple(counts[label] for label in range(classes)),
        sizes=tally.sizes(),
        bad=tuple(itertools.chain.from_iterable(part.bad for part in parts)),
        packing=Packing(
            kind=collection.kind,
            source=collection.fingerprint,
            identity=job.identity,
            kdray=kdray.__version__,
            order=options.order,
            source_bytes=int(job.plan.bytes.sum()),
            short_side=options.short_side,
            quality=options.quality if small else None,
            small=options.small if small else None,
            encoder=job.encoder,
            reencoded=sum(part.reencoded for part in parts),
            shard_bytes=options.shard_bytes,
            row_group_rows=options.row_group_rows,
        ),
    )
