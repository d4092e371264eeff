"""`manifest.json`: what kdray notes beside the shards that it writes, and the check against the files there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from kdray.data.footers import Found
from kdray.data.layout import BadFile, ColumnNames, ImageSizes, Manifest, Packing, ShardColumns, ShardInfo, Triple
from kdray.data.shard_file import ShardDigests
from kdray.errors import DataError

MANIFEST = "manifest.json"
WRITING = "manifest.json.writing"  # stands while a set is being written, and makes every reader refuse it
FORMAT = "kdray_shards"
PACKING = "kdray_packing"  # the format of a WRITING that `kdray shard` goes on from


def to_json(manifest: Manifest, digests: Sequence[ShardDigests]) -> dict[str, Any]:
    """What `manifest.json` holds."""
    shards = [
        {**asdict(shard), "sha256": digest.sha256, "digests": digest.row_groups}
        for shard, digest in zip(manifest.shards, digests, strict=True)
    ]
    packed = (
        {}
        if manifest.packing is None
        else {
            "image_sizes": None if manifest.sizes is None else asdict(manifest.sizes),
            "packing": asdict(manifest.packing),
            "bad_files": [bad._asdict() for bad in manifest.bad],
        }
    )
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
        **packed,
        "shards": shards,
    }


def from_json(said: dict[str, Any], found: Found, wanted: ColumnNames) -> Manifest:
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
        mean, std = triple(said["mean"], where), triple(said["std"], where)
        image_sizes, bad, packing = _packed(said)
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
        sizes=image_sizes,
        bad=bad,
        packing=packing,
    )


def _packed(said: dict[str, Any]) -> tuple[ImageSizes | None, tuple[BadFile, ...], Packing | None]:
    """What a packed set tells beside; a manifest of `write_shards`, or of an older kdray, does not."""
    sizes, bad, packing = said.get("image_sizes"), said.get("bad_files", ()), said.get("packing")
    known = {field.name for field in fields(Packing)}
    return (
        None
        if sizes is None
        else ImageSizes(
            _low_mean_high(sizes["height"]),
            _low_mean_high(sizes["width"]),
            tuple((float(part), int(side)) for part, side in sizes["short_side"]),
        ),
        tuple(BadFile(str(file["path"]), str(file["reason"])) for file in bad),
        None if packing is None else Packing(**{key: value for key, value in packing.items() if key in known}),
    )


def _low_mean_high(value: Sequence[Any]) -> tuple[int, float, int]:
    low, mean, high = value
    return int(low), float(mean), int(high)


def triple(value: Any, where: str) -> Triple | None:
    """Three numbers of a JSON file, for red, green, blue; None stays None."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        raise DataError(f"{value!r} is no mean or std", where=where, fix="Write three numbers, for red, green, blue")
    return (float(value[0]), float(value[1]), float(value[2]))
