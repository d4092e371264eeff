"""What `manifest.json` says of a set as a whole, held against itself and against what reading every row has found."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kdray.data.layout import Triple
from kdray.data.manifest_json import FORMAT
from kdray.data.pack.statistics import Tally

HIGHEST_STD = 0.5  # of values in 0..1: half of them 0, half of them 1


def content_digest(
    shards: Sequence[tuple[Sequence[str], int, Sequence[int]]],
    class_names: Sequence[str] | None,
    num_classes: int,
    mean: Triple | None,
    std: Triple | None,
    split: str,
) -> str:
    """The fingerprint of a packed set; `shards` are (digests of the row groups, rows, rows in each row group)."""
    content = [[list(digests), rows, list(groups)] for digests, rows, groups in shards]
    described = json.dumps([content, class_names, num_classes, mean, std, split])
    return hashlib.blake2b(described.encode(), digest_size=16).hexdigest()


def unknown(said: Any) -> str | None:
    """Why `said` is no manifest that this kdray reads; None where it is one."""
    form = said.get("format") if isinstance(said, dict) else None
    if form != FORMAT:
        return f"is no manifest of kdray's: its format is {form!r}, not {FORMAT!r}"
    if said.get("version") != 1:
        return f"is of version {said.get('version')!r}, which this kdray does not know"
    return None


def contradictions(said: dict[str, Any]) -> list[str]:
    """What a manifest says that cannot be, whatever the shards hold.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is damaged.
    """
    found = []
    shards = said["shards"]
    rows = 0
    for shard in shards:
        inside = sum(int(count) for count in shard["row_groups"])
        rows += inside
        if int(shard["rows"]) != inside:
            found.append(f"says {shard['rows']} rows of {shard['name']}, and {inside} of its row groups")
    if int(said["rows"]) != rows:
        found.append(f"says {said['rows']} rows, and {rows} of its shards")
    names, counts, classes = said["classes"], said["class_counts"], int(said["num_classes"])
    for what, values in (("names", names), ("counts the rows of", counts)):
        if values and len(values) != classes:
            found.append(f"{what} {len(values)} classes, and says {classes}")
    found += _normalisation(said["mean"], said["std"])
    if said.get("packing") and not found:
        content = [(shard["digests"], shard["rows"], shard["row_groups"]) for shard in shards]
        split = str(shards[0]["name"]).rpartition("-of-")[0].rpartition("-")[0]
        if content_digest(content, names or None, classes, said["mean"], said["std"], split) != said["digest"]:
            found.append("was changed: its digest is not that of what it says of rows, classes, mean and std")
    return found


def disproved(said: dict[str, Any], image_bytes: int, sizes: Tally, ids: set[str]) -> list[str]:
    """What a manifest says that a reading of the whole set disproves: `image_bytes`, image `sizes`, and that the rows
    that have one of `ids` were left out.
    """
    found = []
    if int(said["image_bytes"]) != image_bytes:
        found.append(f"says {said['image_bytes']} bytes of images, and there are {image_bytes}")
    extent = sizes.sizes()
    if said.get("image_sizes") is not None and extent is not None:
        read = json.loads(json.dumps(asdict(extent)))
        wrong = [key.replace("_", " ") for key in read if said["image_sizes"].get(key) != read[key]]
        if wrong:
            found.append(f"says other image sizes than there are: {', '.join(wrong)}")
    left_out = [str(bad["path"]) for bad in said.get("bad_files", ())]
    if len(set(left_out)) < len(left_out):
        found.append("lists a bad file twice")
    if back := sorted(ids.intersection(left_out)):
        found.append(f"lists {len(back)} as bad that are there, such as {back[0]}")
    return found


def _normalisation(mean: Any, std: Any) -> list[str]:
    """Why `mean` and `std` cannot be those of values in 0..1."""
    if mean is None and std is None:
        return []
    found = []
    for name, values, high in (("mean", mean, 1.0), ("std", std, HIGHEST_STD)):
        fits = isinstance(values, list) and len(values) == 3
        low_ok = fits and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
        if not low_ok or not all(0 <= value <= high and (name == "mean" or value > 0) for value in values):
            between = f"from 0 to {high:g}" if name == "mean" else f"above 0 and up to {high:g}"
            found.append(f"says {name} {values}, which is not three numbers {between}")
    return found
