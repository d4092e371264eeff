"""What a set of Parquet shards holds: files, rows, classes, and a fingerprint that changes when the data changes.

A set that kdray wrote has a `manifest.json`; of any other folder the Parquet footers tell the same, read in parallel
and in ranges, without touching an image. Class names come from `manifest.json`, a `classes.json` beside the shards, or
the ClassLabel that Hugging Face datasets keep in the schema.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any, NamedTuple

from kdray.data.footers import Footer, Found, check_numbering, find_shards, read_footers
from kdray.data.layout import ColumnNames, Manifest, ShardColumns, ShardInfo, Triple
from kdray.data.manifest_json import FORMAT, MANIFEST, WRITING, from_json, triple
from kdray.errors import DataError
from kdray.store import Store

__all__ = ["Manifest", "ShardColumns", "ShardInfo", "read_manifest"]

CLASSES = "classes.json"


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
        manifest = from_json(written, found, wanted)
        return _check_classes(manifest, classes)
    if WRITING in found.others:
        fix = "`kdray shard` goes on where it stopped; else delete the folder and write the set again"
        raise DataError("holds a set whose writing was cut off", where=found.folder, fix=fix)
    if not found.picked:
        check_numbering(found)
    footers = read_footers(found, wanted)
    return _from_footers(found, footers, classes)


def _from_footers(found: Found, footers: list[Footer], classes: int | None) -> Manifest:
    notes = _classes_json(found)
    names = notes.names or next((footer.class_names for footer in footers if footer.class_names), None)
    shards = tuple(ShardInfo(f.name, f.rows, f.bytes, f.row_groups) for f in footers)
    if not sum(shard.rows for shard in shards):
        raise DataError("the shards have no rows", where=found.uri, fix="Name a set that has some")
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
        manifest = replace(manifest, num_classes=high + 1)
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
    return _Notes(tuple(names), triple(more.get("mean"), where), triple(more.get("std"), where))


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
