"""A tree of image files: class folders, or split folders with class folders in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from kdray.data.pack.collection import BadItem, Collection, items_table
from kdray.data.pack.found import Found, Kind
from kdray.data.pack.listing import Entry, entries, is_folder, is_hidden, is_image, size_in, told
from kdray.data.pack.ranges import LOCAL_THREADS, REMOTE_THREADS, read_files
from kdray.errors import DataError
from kdray.store import open_uri
from kdray.store.store import explaining

SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval")


class ImageFolder(Collection):
    """Items are the files at `source` below `folder`, at `path` where there is no such column."""

    def __init__(self, items: pa.Table, folder: str, **given: Any) -> None:
        self.folder = folder
        super().__init__(items, **given)

    def read(self, items: pa.Table) -> Iterator[bytes | BadItem]:
        column = "source" if "source" in items.column_names else "path"
        uris = [f"{self.folder}/{path}" for path in items.column(column).to_pylist()]
        return read_files(uris, items.column("bytes").to_numpy())

    def place(self, row: int) -> str:
        return f"{self.folder}/{self.items.column('path')[row].as_py()}"


def matches(found: Found) -> str:
    """Looks into folders only until the first image: listing them all is for `collect`."""
    if found.file or found.files is not None:
        return ""
    splits, _ = _splits(found)
    for split in splits:
        for name in split.classes[:64]:
            inside = entries(f"{split.folder}/{name}")
            if any(is_image(entry.name) and not entry.folder for entry in inside.values()):
                return f"class folders such as {name}/"
            for deeper in [entry.name for entry in inside.values() if entry.folder][:2]:
                if any(is_image(below) for below in entries(f"{split.folder}/{name}/{deeper}")):
                    return f"class folders such as {name}/"
    return ""


def collect(found: Found) -> list[Collection]:
    """One collection a split. The classes of all splits are numbered together, sorted by name as torchvision does."""
    splits, notes = _splits(found)
    names = sorted({name for split in splits for name in split.classes})
    if not names:
        fix = "Put each class's images into a folder of its own"
        raise DataError("holds no class folders", where=found.uri, fix=fix)
    found.check_split([split.name for split in splits])
    return [_collection(found, split, names, notes) for split in splits if found.wants(split.name)]


KIND = Kind("imagefolder", "class folders of image files, with or without train/ and val/ above them", matches, collect)


@dataclass
class _Split:
    name: str
    folder: str
    classes: list[str]
    loose: list[str]


def _splits(found: Found) -> tuple[list[_Split], list[str]]:
    """(splits, notes about what is beside them); a tree without splits is one, "train".

    A folder named "train" is a split when it holds folders and no images: a class may have that name as well.
    """
    folders = [entry.name for entry in found.entries.values() if entry.folder]
    flat: list[str] = []
    splits: list[_Split] = []
    for name in sorted((name for name in folders if name in SPLITS), key=SPLITS.index):
        split = _split(name, found.at(name), entries(found.at(name)))
        if split.classes and not split.loose:
            splits.append(split)
        elif split.loose:
            flat.append(name)
    if not splits:
        return [_split("train", found.uri, found.entries)], []
    notes = [f"{name}/ has images without class folders and was left out" for name in flat]
    names = {split.name for split in splits} | set(flat)
    if others := [name for name in folders if name not in names]:
        notes.append(f"what stands beside the splits was left out: {told(others)}")
    return splits, notes


def _split(name: str, folder: str, inside: dict[str, Entry]) -> _Split:
    classes = [entry.name for entry in inside.values() if entry.folder]
    return _Split(
        name, folder, classes, [name for name, entry in inside.items() if not entry.folder and is_image(name)]
    )


def _collection(found: Found, split: _Split, names: list[str], notes: list[str]) -> Collection:
    with ThreadPoolExecutor(REMOTE_THREADS if "://" in split.folder else LOCAL_THREADS) as pool:
        listed = list(pool.map(lambda name: list_images(split.folder, name), split.classes))
    counts = [len(one.sizes) for one in listed]
    number = {name: label for label, name in enumerate(names)}
    items = items_table(
        pa.chunked_array([one.paths for one in listed], pa.string()),
        np.repeat(np.array([number[name] for name in split.classes], np.int64), counts),
        np.concatenate([np.zeros(0, np.int64), *(one.sizes for one in listed)]),
    )
    notes = list(notes)
    if split.loose:
        notes.append(f"{len(split.loose)} images beside the class folders were left out, such as {split.loose[0]}")
    if others := sum(one.others for one in listed):
        example = next(one.example for one in listed if one.others)
        notes.append(f"{others} files without an image's ending were left out, such as {example}")
    if hidden := sum(one.hidden for one in listed):
        notes.append(f"{hidden} hidden files or folders were left out")
    holding = {name for name, count in zip(split.classes, counts, strict=True) if count}
    if empty := [name for name in names if name not in holding]:
        notes.append(f"{len(empty)} of {len(names)} classes have no image in {split.name}: {told(empty, 4)}")
    return ImageFolder(
        items,
        split.folder,
        kind="imagefolder",
        uri=found.uri,
        split=split.name,
        has_splits=split.folder != found.uri,
        class_names=names,
        notes=notes,
    )


@dataclass
class Listed:
    """Images of one class, sorted by path; `others` counts the files that are none."""

    names: list[str] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    others: int = 0
    example: str = ""
    hidden: int = 0
    paths: Any = None
    sizes: Any = None

    def take(self, path: str, size: int) -> None:
        name = path.rpartition("/")[2]
        if is_hidden(name):
            self.hidden += 1
        elif is_image(name):
            self.names.append(path)
            self.bytes.append(size)
        else:
            self.others, self.example = self.others + 1, self.example or path

    def close(self, folder: str) -> Listed:
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        try:
            self.paths = pa.array([self.names[at] for at in order], pa.string())
        except UnicodeEncodeError as exc:
            problem = f"{exc.object!r} has a name that is no UTF-8 text"
            raise DataError(problem, where=folder, fix="Rename it") from exc
        self.sizes = np.array(self.bytes, np.int64)[order]
        self.names, self.bytes = [], []
        return self


def list_images(folder: str, name: str) -> Listed:
    """Images at any depth below `folder/name`; paths from `name` on. Several folders may be listed at once."""
    listed = Listed()
    with explaining(f"{folder}/{name}", "list"):
        if "://" in folder:
            _list_remote(listed, folder, name)
        else:
            _list_local(listed, folder, name, set())
    return listed.close(folder)


def _list_local(listed: Listed, folder: str, below: str, above: set[tuple[int, int]]) -> None:
    status = os.stat(os.path.join(folder, below))
    here = (status.st_dev, status.st_ino)
    if here in above:  # a link to a folder that it stands in
        return
    with os.scandir(os.path.join(folder, below)) as found:
        for item in found:
            path = f"{below}/{item.name}"
            if not is_folder(item):
                listed.take(path, size_in(item))  # a link to nowhere or itself is told as a bad item when it is read
            elif is_hidden(item.name):
                listed.hidden += 1
            else:
                _list_local(listed, folder, path, above | {here})


def _list_remote(listed: Listed, folder: str, name: str) -> None:
    import pyarrow.fs as fs

    files, path = open_uri(f"{folder}/{name}")
    start = len(path) - len(name)
    for info in files.get_file_info(fs.FileSelector(path, recursive=True)):
        if not info.is_file:
            continue
        below = info.path[start:]
        if any(is_hidden(part) for part in below.split("/")[1:-1]):
            listed.hidden += 1
        else:
            listed.take(below, int(info.size))
