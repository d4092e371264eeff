"""Tars with class folders inside, as `tar cf flowers.tar flowers/` makes of a tree of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdray.data.pack import webdataset
from kdray.data.pack.collection import Collection, items_table
from kdray.data.pack.found import Found, Kind
from kdray.data.pack.imagefolder import SPLITS
from kdray.data.pack.listing import told
from kdray.data.pack.members import Members
from kdray.data.pack.shardset import Shards, find_shards, images_of, joined, left_out, open_shards
from kdray.data.pack.tarindex import TarIndex
from kdray.errors import DataError


def matches(found: Found) -> str:
    shards = find_shards(found)
    return f"{sum(len(one.tars) for one in shards)} tar archives" if shards else ""


def collect_either(found: Found) -> list[Collection]:
    """Collections of class folders, or of WebDataset samples where the archives hold label files."""
    shards = _find(found)
    wanted = [one for one in shards if found.wants(one.split)] or shards
    opened = {one.split: open_shards(found, one) for one in wanted}
    if webdataset.has_labels([index for indexes, _ in opened.values() for index in indexes]):
        return webdataset.collections(found, shards, opened)
    return _collections(found, shards, opened)


def collect(found: Found) -> list[Collection]:
    """Collections of class folders; the classes of all splits are numbered together."""
    return _collections(found, _find(found), {})


KIND = Kind("tar", "tars (.tar, .tar.gz, ...) with class folders inside", matches, collect)
EITHER = Kind("tar", KIND.meaning, matches, collect_either)


def _find(found: Found) -> list[Shards]:
    shards = find_shards(found)
    if not shards:
        raise DataError("holds no tar", where=found.uri, fix="Name a tar, or a folder or pattern of tars")
    return shards


@dataclass
class _Images:
    """Images of one split in several tars: `paths` from the class folder on, with places in `files`."""

    split: str
    has_splits: bool
    files: list[str]
    paths: pa.Array
    file: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    here: bool
    notes: list[str]


def _collections(
    found: Found, shards: list[Shards], opened: dict[str, tuple[list[TarIndex], bool]]
) -> list[Collection]:
    parts: list[_Images] = []
    for one in shards:  # all of them, whatever split is wanted: the classes of all are numbered together
        indexes, here = opened[one.split] if one.split in opened else open_shards(found, one)
        parts += _images(one, indexes, here)
    names = sorted({name for part in parts for name in pc.unique(_first(part.paths)).to_pylist()})
    found.check_split([part.split for part in parts])
    return [_collection(found, part, names) for part in parts if found.wants(part.split)]


def _collection(found: Found, part: _Images, names: list[str]) -> Collection:
    labels = pc.index_in(_first(part.paths), pa.array(names, pa.string()))
    items = items_table(
        part.paths, labels, part.size, file=pa.array(part.file, pa.int32()), offset=pa.array(part.offset, pa.int64())
    )
    holding = set(pc.unique(labels).to_pylist())
    notes = list(part.notes)
    if empty := [name for number, name in enumerate(names) if number not in holding]:
        notes.append(f"{len(empty)} of {len(names)} classes have no image in {part.split}: {told(empty, 4)}")
    return Members(
        items,
        part.files,
        kind="tar",
        uri=found.uri,
        split=part.split,
        has_splits=part.has_splits,
        class_names=names,
        here=part.here,
        notes=notes,
    )


def _images(shards: Shards, indexes: list[TarIndex], here: bool) -> list[_Images]:
    rows = [images_of(index) for index in indexes]
    paths = joined([index.names.take(pa.array(row)) for index, row in zip(indexes, rows, strict=True)])
    where = shards.tars[0] if len(shards.tars) == 1 else shards.tars[0].rpartition("/")[0]
    if not len(paths):
        raise DataError("holds no images", where=where, fix="Check the archive, or use --kind")
    paths = _stripped(paths.combine_chunks())
    flat = pc.invert(pc.match_substring(paths, "/"))
    if pc.any(flat).as_py():
        name = paths.filter(flat)[0].as_py()
        fix = "Put each class's images into a folder of its own, or a KEY.cls with the class number beside each KEY.jpg"
        raise DataError(f"{name} stands in no class folder, and has no label", where=where, fix=fix)
    whole = _Images(
        split=shards.split,
        has_splits=shards.has_splits,
        files=[index.tar.uri for index in indexes],
        paths=paths,
        file=np.repeat(np.arange(len(indexes)), [len(row) for row in rows]),
        offset=np.concatenate([index.offset[row] for index, row in zip(indexes, rows, strict=True)]),
        size=np.concatenate([index.size[row] for index, row in zip(indexes, rows, strict=True)]),
        here=here,
        notes=left_out(indexes, len(paths)),
    )
    return [whole] if shards.has_splits else _by_split(whole)


def _by_split(whole: _Images) -> list[_Images]:
    """Parts by split folder, when the first folders are all splits with class folders in them."""
    first = pc.unique(_first(whole.paths)).to_pylist()
    deep = pc.all(pc.greater(pc.count_substring(whole.paths, "/"), 1)).as_py()
    if not deep or any(name not in SPLITS for name in first):
        return [whole]
    parts = []
    for split in sorted(first, key=SPLITS.index):
        rows = np.flatnonzero(pc.equal(_first(whole.paths), split).to_numpy(zero_copy_only=False))
        paths = _rest(whole.paths.take(pa.array(rows)))
        places = (whole.file[rows], whole.offset[rows], whole.size[rows])
        parts.append(_Images(split, True, whole.files, paths, *places, whole.here, whole.notes))
    return parts


def _stripped(paths: pa.Array) -> pa.Array:
    """Without the folders that all images stand in, down to a class folder or a split folder."""
    while True:
        first = pc.unique(_first(paths)).to_pylist()
        deep = pc.all(pc.greater(pc.count_substring(paths, "/"), 1)).as_py()
        if len(first) != 1 or not deep or first[0] in SPLITS:
            return paths
        paths = _rest(paths)


def _first(paths: pa.Array) -> pa.Array:
    return pc.list_element(pc.split_pattern(paths, "/", max_splits=1), 0)


def _rest(paths: pa.Array) -> pa.Array:
    return pc.list_element(pc.split_pattern(paths, "/", max_splits=1), 1)
