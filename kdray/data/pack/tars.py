"""Tars with class folders inside, as `tar cf flowers.tar flowers/` makes of a tree of images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdray.data.pack import webdataset
from kdray.data.pack.collection import Collection, items_table
from kdray.data.pack.found import Found, Kind
from kdray.data.pack.listing import told
from kdray.data.pack.members import Members
from kdray.data.pack.shardset import Shards, find_shards, images_of, joined, left_out, open_shards
from kdray.data.pack.splits import Asked, Layout, Part, lay_out
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
    """Images of several tars, in their order, with their places in `files`; `folder` numbers `folders`, each once."""

    shards: Shards
    files: list[str]
    paths: pa.Array
    folders: list[str]
    folder: np.ndarray
    file: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    here: bool
    notes: list[str]

    def classes(self, below: str) -> list[str | None]:
        """For each of `folders` the folder in `below` that it is or stands in, None where it is not there."""
        start = f"{below}/" if below else ""
        return [
            folder[len(start) :].partition("/")[0] if folder.startswith(start) and folder != "" else None
            for folder in self.folders
        ]


class _Folders:
    """The folders of images in tars as a `Tree`; tars named as splits stand in folders of these names."""

    def __init__(self, parts: list[_Images], by_split: bool) -> None:
        self.children: dict[str, set[str]] = {"": set()}
        self.counts: dict[str, tuple[int, str]] = {}
        for part in parts:
            _, first, counts = np.unique(part.folder, return_index=True, return_counts=True)
            for folder, row, count in zip(part.folders, first.tolist(), counts.tolist(), strict=True):
                below = "/".join(([part.shards.split] if by_split else []) + ([folder] if folder else []))
                self.counts[below] = (count, part.paths[row].as_py().rpartition("/")[2])
                while below:
                    below, _, name = below.rpartition("/")
                    known = below in self.children
                    self.children.setdefault(below, set()).add(name)
                    if known:
                        break

    def folders(self, at: str) -> list[str]:
        return sorted(self.children.get(at, ()))

    def loose(self, at: str) -> tuple[int, str]:
        return self.counts.get(at, (0, ""))

    def holds(self, at: str) -> bool:
        return at in self.counts or at in self.children


def _collections(
    found: Found, shards: list[Shards], opened: dict[str, tuple[list[TarIndex], bool]]
) -> list[Collection]:
    # All of them, whatever split is wanted: the classes of all are numbered together.
    images = [_images(one, *(opened.get(one.split) or open_shards(found, one))) for one in shards]
    asked = Asked(found.uri, "tar", found.split, found.forced)
    given = [one.split for one in shards] if shards[0].has_splits else []
    layout = lay_out(_Folders(images, bool(given)), asked, given)
    names = sorted({name for part in layout.parts for name in part.classes})
    if not names:
        raise _no_classes(images[0])
    if not layout.has_splits:
        layout = replace(layout, parts=(replace(layout.parts[0], split=shards[0].split),))
    found.check_split([part.split for part in layout.parts])
    of_split = {one.shards.split: one for one in images} if given else {}
    return [
        _collection(found, of_split.get(part.split, images[0]), layout, part, names, asked, bool(given))
        for part in layout.parts
        if found.wants(part.split)
    ]


def _collection(
    found: Found, images: _Images, layout: Layout, part: Part, names: list[str], asked: Asked, by_split: bool
) -> Collection:
    below = part.folder.partition("/")[2] if by_split else part.folder
    number = {name: label for label, name in enumerate(names)}
    of_folder = np.array([-1 if name is None else number[name] for name in images.classes(below)], np.int64)
    rows = np.flatnonzero(of_folder[images.folder] >= 0)
    labels = of_folder[images.folder[rows]]
    paths = images.paths.take(pa.array(rows))
    items = items_table(
        pc.utf8_slice_codeunits(paths, len(below) + 1) if below else paths,
        labels,
        images.size[rows],
        file=pa.array(images.file[rows], pa.int32()),
        offset=pa.array(images.offset[rows], pa.int64()),
    )
    notes = [*layout.notes, *part.notes(len(rows), asked), *images.notes]
    if empty := [name for name in names if name not in part.classes]:
        notes.append(f"{len(empty)} of {len(names)} classes have no image in {part.split}: {told(empty, 4)}")
    return Members(
        items,
        images.files,
        kind="tar",
        uri=found.uri,
        split=part.split,
        has_splits=layout.has_splits,
        class_names=names,
        here=images.here,
        notes=notes,
    )


def _images(shards: Shards, indexes: list[TarIndex], here: bool) -> _Images:
    rows = [images_of(index) for index in indexes]
    paths = joined([index.names.take(pa.array(row)) for index, row in zip(indexes, rows, strict=True)])
    if not len(paths):
        raise DataError("holds no images", where=_where(shards), fix="Check the archive, or use --kind")
    paths = paths.combine_chunks()
    folders = pc.replace_substring_regex(paths, r"/?[^/]*$", "", max_replacements=1).dictionary_encode()
    return _Images(
        shards=shards,
        files=[index.tar.uri for index in indexes],
        paths=paths,
        folders=folders.dictionary.to_pylist(),
        folder=folders.indices.to_numpy(zero_copy_only=False),
        file=np.repeat(np.arange(len(indexes)), [len(row) for row in rows]),
        offset=np.concatenate([index.offset[row] for index, row in zip(indexes, rows, strict=True)]),
        size=np.concatenate([index.size[row] for index, row in zip(indexes, rows, strict=True)]),
        here=here,
        notes=left_out(indexes, len(paths)),
    )


def _no_classes(images: _Images) -> DataError:
    name = images.paths[0].as_py()
    fix = "Put each class's images into a folder of its own, or a KEY.cls with the class number beside each KEY.jpg"
    return DataError(f"{name} stands in no class folder, and has no label", where=_where(images.shards), fix=fix)


def _where(shards: Shards) -> str:
    return shards.tars[0] if len(shards.tars) == 1 else shards.tars[0].rpartition("/")[0]
