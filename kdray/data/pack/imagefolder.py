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
from kdray.data.pack.splits import Asked, Layout, Part, is_split, lay_out
from kdray.errors import DataError
from kdray.store import open_uri
from kdray.store.store import explaining


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
    tree = _Folders(found)
    for name in tree.folders("")[:64]:
        inner = tree.folders(name) if is_split(name) else []
        deep = 2 if inner or any(is_split(below) for below in tree.folders(name)) else 1
        if tree.holds(name, deep):
            return f"class folders such as {(inner or [name])[0]}/"
    return ""


def collect(found: Found) -> list[Collection]:
    """One collection a split. The classes of all splits are numbered together, sorted by name as torchvision does."""
    asked = Asked(found.uri, "imagefolder", found.split, found.forced)
    layout = lay_out(_Folders(found), asked)
    names = sorted({name for part in layout.parts for name in part.classes})
    if not names:
        fix = "Put each class's images into a folder of its own"
        raise DataError("holds no class folders", where=found.uri, fix=fix)
    found.check_split([part.split for part in layout.parts])
    return [_collection(found, layout, part, names, asked) for part in layout.parts if found.wants(part.split)]


KIND = Kind("imagefolder", "class folders of image files, with or without train/ and val/ above them", matches, collect)


class _Folders:
    """The folders of a source as a `Tree`."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.listed = {"": found.entries}

    def folders(self, at: str) -> list[str]:
        return [entry.name for entry in self._inside(at).values() if entry.folder]

    def loose(self, at: str) -> tuple[int, str]:
        names = [name for name, entry in self._inside(at).items() if not entry.folder and is_image(name)]
        return len(names), names[0] if names else ""

    def holds(self, at: str, deep: int | None = None) -> bool:
        """As `Tree` has it, but `deep` folders below `at` at most."""
        uri = self.found.at(at)
        with explaining(uri, "list"):
            return _holds_remote(uri, deep) if "://" in uri else _holds_local(uri, deep, set())

    def _inside(self, at: str) -> dict[str, Entry]:
        if at not in self.listed:
            self.listed[at] = entries(self.found.at(at))
        return self.listed[at]


def _holds_local(folder: str, deep: int | None, above: set[tuple[int, int]]) -> bool:
    """Of a folder of images only the first is looked at."""
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return False
    inner: list[str] = []
    with os.scandir(folder) as found:
        for item in found:
            if is_hidden(item.name):
                continue
            if item.is_dir():
                inner.append(item.path)
            elif is_image(item.name):
                return True
    less = None if deep is None else deep - 1
    return deep != 0 and any(_holds_local(path, less, above | {here}) for path in sorted(inner))


def _holds_remote(folder: str, deep: int | None) -> bool:
    inside = entries(folder)
    if any(is_image(name) and not entry.folder for name, entry in inside.items()):
        return True
    less = None if deep is None else deep - 1
    return deep != 0 and any(_holds_remote(f"{folder}/{name}", less) for name, entry in inside.items() if entry.folder)


def _collection(found: Found, layout: Layout, part: Part, names: list[str], asked: Asked) -> Collection:
    folder = found.at(part.folder) if part.folder else found.uri
    with ThreadPoolExecutor(REMOTE_THREADS if "://" in folder else LOCAL_THREADS) as pool:
        listed = list(pool.map(lambda name: list_images(folder, name), part.classes))
    counts = [len(one.sizes) for one in listed]
    number = {name: label for label, name in enumerate(names)}
    items = items_table(
        pa.chunked_array([one.paths for one in listed], pa.string()),
        np.repeat(np.array([number[name] for name in part.classes], np.int64), counts),
        np.concatenate([np.zeros(0, np.int64), *(one.sizes for one in listed)]),
    )
    notes = [f"all stands in {layout.top}/, which was passed over"] if layout.top else []
    notes += [*layout.notes, *part.notes(sum(counts), asked)]
    if others := sum(one.others for one in listed):
        example = next(one.example for one in listed if one.others)
        notes.append(f"{others} files without an image's ending were left out, such as {example}")
    if hidden := sum(one.hidden for one in listed):
        notes.append(f"{hidden} hidden files or folders were left out")
    holding = {name for name, count in zip(part.classes, counts, strict=True) if count}
    if empty := [name for name in names if name not in holding]:
        notes.append(f"{len(empty)} of {len(names)} classes have no image in {part.split}: {told(empty, 4)}")
    return ImageFolder(
        items,
        folder,
        kind="imagefolder",
        uri=found.uri,
        split=part.split,
        has_splits=layout.has_splits,
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
