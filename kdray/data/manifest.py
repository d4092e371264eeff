"""What a set of Parquet shards holds: files, rows, classes, and a fingerprint that changes when the data changes.

A set that kdray wrote has a `manifest.json`; of any other folder the Parquet footers tell the same, read in parallel
and in ranges, without touching an image. Class names come from `manifest.json`, a `classes.json` beside the shards, or
the ClassLabel that Hugging Face datasets keep in the schema.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from kdray.data.footers import Footer, Found, check_numbering, find_shards, read_footers
from kdray.errors import DataError
from kdray.store import Store

MANIFEST = "manifest.json"
WRITING = "manifest.json.writing"  # stands while a set is being written to an object store
CLASSES = "classes.json"
FORMAT = "kdray_shards"

Triple = tuple[float, float, float]


class ColumnNames(Protocol):
    """What names the columns: `kdray.experiment.Columns`, or a `ShardColumns`."""

    @property
    def image(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def id(self) -> str | None: ...


@dataclass(frozen=True)
class ShardColumns:
    """Column names; `image_kind` says whether the image is plain bytes or a struct with a field `bytes`."""

    image: str = "image"
    label: str = "label"
    id: str | None = None
    image_kind: Literal["binary", "struct"] = "binary"


@dataclass(frozen=True)
class ShardInfo:
    """One file: `bytes` is its size, `row_groups` the rows in each row group."""

    name: str
    rows: int
    bytes: int
    row_groups: tuple[int, ...]


class Group(NamedTuple):
    """A row group: number of its shard, its number in the shard, its first dense row, its rows."""

    shard: int
    row_group: int
    start: int
    rows: int


@dataclass(frozen=True)
class Manifest:
    """A set of shards under the folder `folder`; rows are numbered densely over the shards in their order.

    `mean` and `std` are per RGB channel of pixels in 0..1; `image_bytes` is the encoded size of all images.
    """

    uri: str
    folder: str
    shards: tuple[ShardInfo, ...]
    columns: ShardColumns
    num_classes: int
    class_names: tuple[str, ...] | None
    mean: Triple | None
    std: Triple | None
    image_bytes: int
    fingerprint: str
    class_counts: tuple[int, ...] | None = field(default=None, repr=False)

    @property
    def num_samples(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [S+1]: the dense number of each shard's first row, then the number of samples."""
        return np.cumsum([0, *(shard.rows for shard in self.shards)], dtype=np.int64)

    @cached_property
    def groups(self) -> np.ndarray:
        """int64 [G, 4]: every row group as (shard, row group, first dense row, rows), in row order; see `Group`."""
        sizes = [(s, g, rows) for s, shard in enumerate(self.shards) for g, rows in enumerate(shard.row_groups)]
        table = np.array(sizes, dtype=np.int64).reshape(-1, 3)
        starts = np.cumsum(table[:, 2]) - table[:, 2]
        return np.stack([table[:, 0], table[:, 1], starts, table[:, 2]], axis=1)

    def group(self, number: int) -> Group:
        """Row group `number` of all."""
        return Group(*(int(value) for value in self.groups[number]))

    def group_of(self, index: np.ndarray) -> np.ndarray:
        """Number of the row group that holds each dense row: int64 [n] -> int64 [n]."""
        return np.searchsorted(self.groups[:, 2], index, side="right") - 1

    def shard_uri(self, shard: int) -> str:
        return f"{self.folder.rstrip('/')}/{self.shards[shard].name}"

    def position(self, index: int) -> str:
        """Where a person finds dense row `index`: "train-00000-of-00005.parquet row 17"."""
        shard = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return f"{self.shards[shard].name} row {index - int(self.offsets[shard])}"

    @staticmethod
    def declared(shard: ShardInfo, *, num_classes: int) -> Manifest:
        """A manifest without files behind it, for a plan made where the data cannot be reached."""
        return Manifest(
            uri=f"declared:{shard.name}",
            folder="",
            shards=(shard,),
            columns=ShardColumns(),
            num_classes=num_classes,
            class_names=None,
            mean=None,
            std=None,
            image_bytes=shard.bytes,
            fingerprint=f"declared-{shard.name}-{shard.rows}-{num_classes}",
        )


def read_manifest(uri: str, columns: ColumnNames | None = None, classes: int | None = None) -> Manifest:
    """Read what the shards at `uri` hold, without reading images.

    Args:
        uri: a folder (its `*.parquet` files in name order, not deeper), one file, or a glob in the last part of the
            path such as `s3://bucket/cifar100/train-*.parquet`.
        columns: names of the columns; an `id` of None is the manifest's own id column, where there is one.
        classes: the number of classes that is expected, checked against what the data says.

    Raises:
        DataError: no shards, a file that is cut off or no Parquet, a column that is missing or of the wrong type,
            a set whose writing was cut off, labels or class names that contradict the number of classes.
        StoreError: the storage does not answer or refuses.
    """
    wanted = columns or ShardColumns()
    found = find_shards(uri)
    written = _own_manifest(found)
    if written is not None:
        manifest = _from_json(written, found, wanted)
        return _check_classes(manifest, classes)
    if WRITING in found.others:
        raise DataError(
            "holds a set whose writing was cut off", where=found.folder, fix="Delete the folder and write the set again"
        )
    if not found.picked:
        check_numbering(found)
    footers = read_footers(found, wanted)
    return _from_footers(found, footers, classes)


def _from_footers(found: Found, footers: list[Footer], classes: int | None) -> Manifest:
    notes = _classes_json(found)
    names = notes.names or next((footer.class_names for footer in footers if footer.class_names), None)
    shards = tuple(ShardInfo(f.name, f.rows, f.bytes, f.row_groups) for f in footers)
    if not sum(shard.rows for shard in shards):
        raise DataError("the shards have no rows", where=found.uri, fix="Check data.train and data.test")
    digest = hashlib.blake2b(digest_size=16)
    for footer in footers:
        digest.update(json.dumps([footer.name, footer.bytes, footer.rows, footer.digest]).encode())
    columns = ShardColumns(*footers[0].columns)
    digest.update(json.dumps([columns.image, columns.label, columns.id]).encode())
    manifest = Manifest(
        uri=found.uri,
        folder=found.folder,
        shards=shards,
        columns=columns,
        num_classes=len(names) if names else classes or 0,
        class_names=names,
        mean=notes.mean,
        std=notes.std,
        image_bytes=sum(footer.image_bytes for footer in footers),
        fingerprint=digest.hexdigest(),
    )
    low, high = _label_range(manifest, footers)
    if manifest.num_classes == 0:
        manifest = Manifest(**{**_fields(manifest), "num_classes": high + 1})
    if low < 0 or high >= max(1, manifest.num_classes):
        wrong = low if low < 0 else high
        said = "classes are named" if names else "classes are expected"
        raise DataError(
            f"a label is {wrong}, but {manifest.num_classes} {said}, so labels are 0..{manifest.num_classes - 1}",
            where=found.uri,
            fix="Correct the labels or data.classes; rows without a class (label -1) must be left out",
        )
    return _check_classes(manifest, classes)


def _label_range(manifest: Manifest, footers: list[Footer]) -> tuple[int, int]:
    if all(footer.labels is not None for footer in footers):
        ranges = [footer.labels for footer in footers if footer.labels is not None]
    else:  # written without statistics: the label column is small, read it
        from kdray.data.reader import label_values

        values = label_values(manifest)
        ranges = [(int(values.min()), int(values.max()))]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _check_classes(manifest: Manifest, classes: int | None) -> Manifest:
    if classes is not None and classes != manifest.num_classes:
        raise DataError(
            f"the data has {manifest.num_classes} classes, but {classes} are expected",
            where=manifest.uri,
            fix=f"Set data.classes: {manifest.num_classes}, or use the train and test sets of one data set",
        )
    return manifest


class _Notes(NamedTuple):
    names: tuple[str, ...] | None = None
    mean: Triple | None = None
    std: Triple | None = None


def _classes_json(found: Found) -> _Notes:
    """Class names (a list, or a map with `classes`), mean and std of a `classes.json` beside the shards."""
    if CLASSES not in found.others:
        return _Notes()
    where = f"{found.folder}/{CLASSES}"
    said = _json(found, CLASSES)
    names = said.get("classes") if isinstance(said, dict) else said
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        fix = 'Write {"classes": ["cat", "dog"]} in label order, or remove the file'
        raise DataError("does not list class names", where=where, fix=fix)
    if len(set(names)) != len(names):
        raise DataError("names a class twice", where=where, fix="Name each class once, in label order")
    more = said if isinstance(said, dict) else {}
    return _Notes(tuple(names), _triple(more.get("mean"), where), _triple(more.get("std"), where))


def _triple(value: Any, where: str) -> Triple | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        raise DataError(f"{value!r} is no mean or std", where=where, fix="Write three numbers, for red, green, blue")
    return (float(value[0]), float(value[1]), float(value[2]))


def _own_manifest(found: Found) -> dict[str, Any] | None:
    if MANIFEST not in found.others:
        return None
    said = _json(found, MANIFEST)
    return said if isinstance(said, dict) and said.get("format") == FORMAT else None


def _json(found: Found, name: str) -> Any:
    try:
        return json.loads(Store(found.folder).read_bytes(name))
    except ValueError as exc:
        where = f"{found.folder}/{name}"
        raise DataError(f"is not JSON: {exc}", where=where, fix="Remove the file or write the set again") from exc


def to_json(manifest: Manifest, sha256: list[str]) -> dict[str, Any]:
    """What `manifest.json` holds; `sha256` are the shards' digests."""
    return {
        "format": FORMAT,
        "version": 1,
        "rows": manifest.num_samples,
        "num_classes": manifest.num_classes,
        "columns": asdict(manifest.columns),
        "mean": manifest.mean,
        "std": manifest.std,
        "image_bytes": manifest.image_bytes,
        "digest": manifest.fingerprint,
        "classes": manifest.class_names,
        "class_counts": manifest.class_counts,
        "shards": [{**asdict(shard), "sha256": digest} for shard, digest in zip(manifest.shards, sha256, strict=True)],
    }


def _from_json(said: dict[str, Any], found: Found, wanted: ColumnNames) -> Manifest:
    where = f"{found.folder}/{MANIFEST}"
    try:
        if said["version"] != 1:
            raise DataError(f"is of version {said['version']}", where=where, fix="Use a newer kdray")
        listed = [
            ShardInfo(str(s["name"]), int(s["rows"]), int(s["bytes"]), tuple(int(n) for n in s["row_groups"]))
            for s in said["shards"]
        ]
        own = ShardColumns(**said["columns"])
        names = tuple(said["classes"]) if said["classes"] else None
        counts = tuple(said["class_counts"]) if said["class_counts"] else None
        num_classes, digest, image_bytes = int(said["num_classes"]), str(said["digest"]), int(said["image_bytes"])
        mean, std = _triple(said["mean"], where), _triple(said["std"], where)
    except (KeyError, TypeError, ValueError) as exc:
        raise DataError(f"is damaged: {exc!r}", where=where, fix="Write the set again") from exc
    for key in ("image", "label", "id"):
        name, has = getattr(wanted, key), getattr(own, key)
        if name != has and not (key == "id" and name is None):
            fix = f"Remove data.columns.{key} or set it to {has!r}" if has else f"Remove data.columns.{key}"
            raise DataError(f"has no column {name!r} as {key}", where=where, fix=fix)
    sizes = dict(found.files)
    strangers = sorted(set(sizes) - {shard.name for shard in listed})
    if strangers:
        fix = f"Remove {MANIFEST} to read all files by their footers, or move the file away"
        raise DataError(f"does not list {strangers[0]}, which is there", where=where, fix=fix)
    shards = tuple(shard for shard in listed if shard.name in sizes or not found.picked)
    for shard in shards:
        if shard.name not in sizes:
            raise DataError("is missing", where=f"{found.folder}/{shard.name}", fix="Copy the set again, whole")
        if sizes[shard.name] != shard.bytes:
            problem = f"has {sizes[shard.name]} bytes instead of {shard.bytes}: cut off or changed"
            raise DataError(problem, where=f"{found.folder}/{shard.name}", fix="Copy the set again, whole")
    if len(shards) < len(listed):  # a glob took some: their share, and a fingerprint of their own
        share = sum(shard.rows for shard in shards) / max(1, sum(shard.rows for shard in listed))
        image_bytes, counts = round(image_bytes * share), None
        text = json.dumps([digest, [shard.name for shard in shards]])
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return Manifest(
        uri=found.uri,
        folder=found.folder,
        shards=shards,
        columns=own,
        num_classes=num_classes,
        class_names=names,
        mean=mean,
        std=std,
        image_bytes=image_bytes,
        fingerprint=digest,
        class_counts=counts,
    )


def _fields(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}
