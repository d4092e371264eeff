"""Write a set of shards, whole or absent.

Shards are made in a temporary folder. A local set then becomes visible by one rename; in an object store the shards are
uploaded under a marker, `manifest.json` last, so that what a killed writer leaves is refused by every reader.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from kdray.data.layout import Manifest, ShardColumns, ShardInfo, Triple, shard_name
from kdray.data.manifest import read_manifest
from kdray.data.manifest_json import MANIFEST, PACKING, WRITING, to_json
from kdray.data.shard_file import RowDigest, ShardDigests, ShardWriter, shard_schema
from kdray.errors import DataError, StoreError
from kdray.store import Store
from kdray.store.local import sync_folder, temporary_name
from kdray.store.place import parse
from kdray.store.store import explaining

MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """One encoded image (the bytes of a PNG, JPEG, ...), its class number, and its id where it has one."""

    image: bytes
    label: int
    id: str | int | None = None


def write_shards(
    samples: Iterable[Sample],
    dest_uri: str,
    *,
    class_names: Iterable[str] | None = None,
    shard_bytes: int = 64 * MIB,
    row_group_rows: int = 64,
    mean: Triple | None = None,
    std: Triple | None = None,
    split: str = "train",
) -> Manifest:
    """Write `samples` as Parquet shards into the folder `dest_uri`, in their order, and return their manifest.

    Needs free space of the set's size: beside a local folder, else in the temporary folder (TMPDIR). A set with the
    same content that is there already is kept; two writers at once leave one whole set.

    Args:
        samples: read once, never held in memory whole; ids are given for all samples or for none.
        class_names: in label order; without them the labels alone tell the number of classes.
        shard_bytes: encoded images in one shard, about; row_group_rows: what a reader of one row has to read.
        mean, std: per RGB channel of pixels in 0..1, kept in the manifest.
        split: first part of the file names.

    Raises:
        DataError: no samples, a label without a class, ids of mixed kinds, another set at the destination.
        StoreError: no space, no permission, no answer.
    """
    if shard_bytes < 1 or row_group_rows < 1:
        raise DataError("shard_bytes and row_group_rows must be at least 1", where=dest_uri)
    names = tuple(class_names) if class_names is not None else None
    place = parse(dest_uri)
    local = place.scheme == "local"
    with _workshop(place.path if local else None) as folder, explaining(folder if not local else place.path, "write"):
        packer = _Packer(folder, split, names, shard_bytes, row_group_rows)
        packer.run(samples, place.uri)
        manifest = packer.finish(place.uri, mean, std)
        content = to_json(manifest, packer.digests)
        Store(folder).write_json(MANIFEST, content)
        if local:
            return _move(folder, manifest)
        return _upload(folder, manifest, content)


@contextlib.contextmanager
def _workshop(dest: str | None) -> Iterator[str]:
    """A temporary folder, beside `dest` when that is local so that one rename moves it; always removed."""
    if dest is None:
        folder = tempfile.mkdtemp(prefix="kdray-shards-")
    else:
        parent, name = os.path.split(dest)
        folder = os.path.join(parent, temporary_name(name))
        with explaining(parent, "write"):
            os.makedirs(parent, exist_ok=True)
            os.mkdir(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Packer:
    """Writes shard after shard; they get their names when their number is known."""

    folder: str
    split: str
    names: tuple[str, ...] | None
    shard_bytes: int
    row_group_rows: int
    has_ids: bool | None = None
    id_type: type = int
    rows: int = 0
    image_bytes: int = 0
    shards: list[ShardInfo] = field(default_factory=list)
    digests: list[ShardDigests] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    content: RowDigest = field(default_factory=lambda: RowDigest(16))

    def run(self, samples: Iterable[Sample], dest: str) -> None:
        with contextlib.ExitStack() as stack:
            writer: ShardWriter | None = None
            for sample in samples:
                self._take(sample, dest)
                writer = writer or stack.enter_context(self._open())
                writer.add(sample.image, sample.label, sample.id)
                if writer.image_bytes >= self.shard_bytes:
                    self._close(writer)
                    stack.close()
                    writer = None
            if writer is not None:
                self._close(writer)
        if not self.shards:
            raise DataError("there are no samples to write", where=dest, fix="Check where they come from")

    def finish(self, uri: str, mean: Triple | None, std: Triple | None) -> Manifest:
        for number, shard in enumerate(self.shards):
            name = shard_name(self.split, number, len(self.shards))
            os.rename(os.path.join(self.folder, shard.name), os.path.join(self.folder, name))
            self.shards[number] = replace(shard, name=name)
        classes = len(self.names) if self.names else len(self.counts)
        layout = [[shard.rows, shard.row_groups] for shard in self.shards]
        described = json.dumps([layout, self.names, classes, mean, std, self.split])
        return Manifest(
            uri=uri,
            folder=uri,
            shards=tuple(self.shards),
            columns=ShardColumns(id="id" if self.has_ids else None, image_kind="struct"),
            num_classes=classes,
            class_names=self.names,
            mean=mean,
            std=std,
            image_bytes=self.image_bytes,
            fingerprint=self.content.hexdigest(described),
            class_counts=tuple(self.counts + [0] * (classes - len(self.counts))),
        )

    def _take(self, sample: Sample, dest: str) -> None:
        """Check one sample and count it."""
        label, row = sample.label, self.rows
        classes = len(self.names) if self.names else None
        if label < 0 or (classes is not None and label >= classes):
            last = f"0..{classes - 1}" if classes is not None else "0 and up"
            fix = "Correct the label or class_names"
            raise DataError(f"sample {row} has the label {label}, but labels are {last}", where=dest, fix=fix)
        if self.has_ids is None:
            self.has_ids = sample.id is not None
            self.id_type = str if isinstance(sample.id, str) else int
        if (sample.id is not None) != self.has_ids or (self.has_ids and not isinstance(sample.id, self.id_type)):
            fix = "Give ids to all samples or to none, all integers or all strings"
            raise DataError(f"sample {row} has the id {sample.id!r}, unlike those before it", where=dest, fix=fix)
        if not sample.image:
            raise DataError(f"sample {row} has an empty image", where=dest, fix="Leave it out")
        self.counts.extend([0] * (label + 1 - len(self.counts)))
        self.counts[label] += 1
        self.rows += 1
        self.image_bytes += len(sample.image)
        self.content.add(sample.image, label, sample.id)

    def _open(self) -> ShardWriter:
        id_type = pa.string() if self.id_type is str else pa.int64()
        schema = shard_schema(self.names, id_type if self.has_ids else None)
        return ShardWriter(os.path.join(self.folder, f"{len(self.shards)}.part"), schema, self.row_group_rows)

    def _close(self, writer: ShardWriter) -> None:
        info, digests = writer.close()
        self.shards.append(info)
        self.digests.append(digests)


def _move(folder: str, manifest: Manifest) -> Manifest:
    """Make the finished local folder visible under its name, by one rename."""
    sync_folder(folder)
    try:
        os.rename(folder, manifest.folder)  # replaces nothing but an empty folder
    except OSError:
        if not os.path.isdir(manifest.folder):
            raise
        return _keep_same(manifest)
    sync_folder(os.path.dirname(manifest.folder))
    return manifest


def _upload(folder: str, manifest: Manifest, content: dict[str, Any]) -> Manifest:
    store = Store(manifest.folder)
    there = set(store.list())
    if MANIFEST in there:
        return _keep_same(manifest)
    if WRITING in there:  # a killed writer's rest
        if store.read_json(WRITING).get("format") == PACKING:  # which can be gone on with
            raise _occupied(manifest)
        for name in sorted(there - {WRITING}):
            if name.endswith(".parquet"):
                store.delete(name)
    elif there:
        raise _occupied(manifest)
    store.write_json(WRITING, {"digest": manifest.fingerprint})
    for shard in manifest.shards:
        store.put_file(shard.name, os.path.join(folder, shard.name))
    store.write_json(MANIFEST, content)
    store.delete(WRITING)
    return manifest


def _keep_same(manifest: Manifest) -> Manifest:
    """The complete set that stands at the destination, when it holds the same."""
    try:
        there = read_manifest(manifest.folder)
    except (DataError, StoreError) as exc:
        raise _occupied(manifest) from exc
    if there.fingerprint != manifest.fingerprint:
        raise _occupied(manifest)
    return there


def _occupied(manifest: Manifest) -> DataError:
    return DataError(
        "something else is there already", where=manifest.folder, fix="Delete it or write to another folder"
    )
