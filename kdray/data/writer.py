"""Write a set of shards, whole or absent.

Shards are made in a temporary folder. A local set then becomes visible by one rename; in an object store the shards are
uploaded under a marker, `manifest.json` last, so that what a killed writer leaves is refused by every reader.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdray.data.layout import Manifest, ShardColumns, ShardInfo, Triple
from kdray.data.manifest import read_manifest
from kdray.data.manifest_json import MANIFEST, WRITING, to_json
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
        content = to_json(manifest, packer.sha256)
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
    sha256: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def run(self, samples: Iterable[Sample], dest: str) -> None:
        buffer: list[Sample] = []
        writer: pq.ParquetWriter | None = None
        groups: list[int] = []
        filled = 0
        try:
            for sample in samples:
                self._take(sample, dest)
                buffer.append(sample)
                filled += len(sample.image)
                if len(buffer) < self.row_group_rows and filled < self.shard_bytes:
                    continue
                writer = writer or self._open()
                self._write(writer, buffer, groups)
                if filled >= self.shard_bytes:
                    self._close(writer, groups)
                    writer, groups, filled = None, [], 0
            if buffer:
                writer = writer or self._open()
                self._write(writer, buffer, groups)
            if writer is not None:
                closing, writer = writer, None
                self._close(closing, groups)
        finally:
            if writer is not None:
                with contextlib.suppress(OSError, pa.ArrowException):  # the first failure is the one to tell
                    writer.close()
        if not self.shards:
            raise DataError("there are no samples to write", where=dest, fix="Check where they come from")

    def finish(self, uri: str, mean: Triple | None, std: Triple | None) -> Manifest:
        for number, shard in enumerate(self.shards):
            name = f"{self.split}-{number:05d}-of-{len(self.shards):05d}.parquet"
            os.rename(os.path.join(self.folder, shard.name), os.path.join(self.folder, name))
            self.shards[number] = replace(shard, name=name)
        classes = len(self.names) if self.names else len(self.counts)
        layout = [[shard.rows, shard.row_groups] for shard in self.shards]
        self.digest.update(json.dumps([layout, self.names, classes, mean, std, self.split]).encode())
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
            fingerprint=self.digest.hexdigest(),
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
        self.digest.update(json.dumps([int(label), sample.id, len(sample.image)]).encode())
        self.digest.update(sample.image)

    def _open(self) -> pq.ParquetWriter:
        id_type = pa.string() if self.id_type is str else pa.int64()
        fields = [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())]
        schema = pa.schema([*fields, ("id", id_type)] if self.has_ids else fields)
        features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
        if self.names:
            features["label"] = {"names": list(self.names), "_type": "ClassLabel"}
        if self.has_ids:
            features["id"] = {"dtype": str(id_type), "_type": "Value"}
        told = json.dumps({"info": {"features": features}})
        self.shards.append(ShardInfo(f"{len(self.shards)}.part", 0, 0, ()))
        return pq.ParquetWriter(
            os.path.join(self.folder, self.shards[-1].name),
            schema.with_metadata({"huggingface": told}),
            compression="none",  # encoded images do not shrink
            use_dictionary=False,
            write_statistics=["label"],
        )

    def _write(self, writer: pq.ParquetWriter, buffer: list[Sample], groups: list[int]) -> None:
        images = pa.StructArray.from_arrays(
            [pa.array([s.image for s in buffer], pa.binary()), pa.nulls(len(buffer), pa.string())], ["bytes", "path"]
        )
        columns = {"image": images, "label": pa.array(np.array([s.label for s in buffer], np.int64))}
        if self.has_ids:
            columns["id"] = pa.array([s.id for s in buffer], writer.schema.field("id").type)
        writer.write_table(pa.table(columns, schema=writer.schema), row_group_size=len(buffer))
        groups.append(len(buffer))
        buffer.clear()

    def _close(self, writer: pq.ParquetWriter, groups: list[int]) -> None:
        writer.close()
        path = os.path.join(self.folder, self.shards[-1].name)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            self.sha256.append(hashlib.file_digest(file, "sha256").hexdigest())
        self.shards[-1] = replace(
            self.shards[-1], rows=sum(groups), bytes=os.path.getsize(path), row_groups=tuple(groups)
        )


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
