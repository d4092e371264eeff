"""Small sources for the tests of packing: trees, tars, and what is read back from them."""

from __future__ import annotations

import functools
import io
import tarfile
from pathlib import Path

from kdray.data.pack.collection import BadItem, Collection, open_collections
from kdray.store import Store
from tests.data.photos import photos

Tree = dict[str, bytes]


@functools.cache
def images(count: int = 12) -> tuple[bytes, ...]:
    return tuple(photos(count, size=(32, 24)))


def flowers(classes: tuple[str, ...] = ("aster", "lily", "rose"), each: int = 3) -> Tree:
    """`each` images in each class folder."""
    data = images(len(classes) * each)
    return {f"{name}/{k}.jpg": data[each * c + k] for c, name in enumerate(classes) for k in range(each)}


def plant(root: str | Path, tree: Tree) -> str:
    """Write `tree` below the folder or URI `root`, which is given back."""
    store = Store(str(root))
    for path, data in tree.items():
        store.write_bytes(path, data)
    return store.uri


def tar(tree: Tree, form: int = tarfile.PAX_FORMAT) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=form) as archive:
        for path, data in tree.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return whole.getvalue()


def read_all(collection: Collection) -> dict[str, tuple[int, bytes | BadItem]]:
    """{path: (label, bytes)} of all items."""
    items = collection.items
    data = list(collection.read(items))
    assert len(data) == items.num_rows
    return dict(zip(items["path"].to_pylist(), zip(items["label"].to_pylist(), data, strict=True), strict=True))


def read_source(uri: str | Path, **options: str) -> dict[str, dict[str, tuple[int, bytes | BadItem]]]:
    """{split: {path: (label, bytes)}} of the source at `uri`."""
    with open_collections(str(uri), **options) as collections:
        return {collection.split: read_all(collection) for collection in collections}


def expected(tree: Tree, classes: tuple[str, ...] = ("aster", "lily", "rose")) -> dict[str, tuple[int, bytes]]:
    """What a tree of class folders is to give."""
    return {path: (classes.index(path.split("/")[0]), data) for path, data in tree.items()}
