"""What a source of images is to everything behind it: splits, each a table of items whose bytes can be read anywhere.

    with open_collections("s3://bucket/imagenet") as collections:
        for collection in collections:
            for data in collection.read(collection.items.slice(0, 64)):
                ...

A source is listed once, by the driver. The listing is columnar, so a million items cost tens of megabytes; the tasks
that read get the rows they are to read, and a collection that carries none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdray.errors import DataError, StoreError


@dataclass(frozen=True)
class BadItem:
    """An item whose bytes cannot be had, and why in a few words; `error` is what the storage said of it."""

    reason: str
    error: StoreError | None = field(default=None, compare=False, repr=False)


class Collection(ABC):
    """One split of a source.

    Attributes:
        split: "train", "val", "test", ... as the source names it; "train" for a source without splits.
        has_splits: whether the source has named splits, of which this is one.
        kind: "imagefolder", "ilsvrc2012", "tar", "webdataset", "cifar10", "cifar100", "stl10", "tiny-imagenet",
            "parquet".
        uri: where the source lies.
        class_names: in label order; None where the source has class numbers only.
        num_classes: of all splits of the source together, as far as the listing has looked at their labels.
        items: `path` string (unique in the split), `label` int64, `bytes` int64 (encoded size; an estimate where the
            source does not store encoded images), and private columns of the kind. In the source's order. Empty
            in a pickled copy: a task is sent the rows that it is to read.
        here: the bytes can be read on this machine only, and only while `open_collections` is open.
        notes: what was left out or is unusual, one line each, to be told to the user.
        fingerprint: digest of the listing (paths, labels, sizes, class names).
    """

    def __init__(
        self,
        items: pa.Table,
        *,
        kind: str,
        uri: str,
        split: str = "train",
        has_splits: bool = False,
        class_names: Sequence[str] | None = None,
        num_classes: int = 0,
        here: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        """Without names there are `num_classes` at least, as the labels of other splits may say.

        Raises:
            DataError: a listing without items, a path that is there twice, or a label without a class.
        """
        self.items = items
        self.kind, self.uri, self.split, self.has_splits, self.here = kind, uri, split, has_splits, here
        self.class_names = None if class_names is None else tuple(class_names)
        self.notes = tuple(notes)
        if not items.num_rows:
            raise DataError(
                f"split {split!r} holds no images", where=uri, fix="Check the source, or name another split"
            )
        self._check_labels()
        self._check_paths()
        highest = int(pc.max(items.column("label")).as_py())
        self.num_classes = len(self.class_names) if self.class_names else max(num_classes, highest + 1)
        self.fingerprint = _fingerprint(items, self.class_names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"items": self.items.schema.empty_table()}

    @abstractmethod
    def read(self, items: pa.Table) -> Iterator[bytes | BadItem]:
        """Encoded bytes of the rows `items`, in their order; neighbours in the source are read together.

        Raises:
            StoreError: the storage fails; a file that has gone or shrunk since the listing, or that alone cannot be
                read, is a `BadItem` instead.
        """

    def place(self, row: int) -> str:
        """Where the item number `row` stands, for an error message."""
        return f"item {row}"

    def _check_labels(self) -> None:
        labels = self.items.column("label").to_numpy()
        classes = len(self.class_names) if self.class_names else None
        wrong = labels < 0 if classes is None else (labels < 0) | (labels >= classes)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            last = "0 and up" if classes is None else f"0..{classes - 1}"
            fix = "Correct the label, or leave the image out"
            raise DataError(
                f"{self.place(row)} has the label {labels[row]}, but labels are {last}", where=self.uri, fix=fix
            )

    def _check_paths(self) -> None:
        paths = self.items.column("path")
        if pc.count_distinct(paths).as_py() == len(paths):
            return
        codes = pa.chunked_array(paths).combine_chunks().dictionary_encode().indices.to_numpy()
        first = int(np.flatnonzero(np.bincount(codes)[codes] > 1)[0])
        again = int(np.flatnonzero(codes == codes[first])[1])
        raise DataError(
            f"{paths[first].as_py()!r} is there twice: {self.place(first)} and {self.place(again)}",
            where=self.uri,
            fix="Remove or rename one of them",
        )


def items_table(paths: Any, labels: Any, sizes: Any, **private: Any) -> pa.Table:
    """The `items` of a collection; `private` columns are arrays of the same length."""
    columns = {
        "path": _array(paths, pa.string()),
        "label": _array(labels, pa.int64()),
        "bytes": _array(sizes, pa.int64()),
    }
    return pa.table(columns | {name: _array(values, None) for name, values in private.items()})


@contextlib.contextmanager
def open_collections(
    uri: str, *, kind: str | None = None, split: str | None = None, scratch: str | None = None
) -> Iterator[list[Collection]]:
    """The splits of the source at `uri`, listed; local, `s3://` or `gs://`.

    Args:
        uri: a folder, an archive, or a glob or brace pattern of shards.
        kind: skips the detection of what is there.
        split: only this one; None for all labelled splits.
        scratch: a local folder for what must be unpacked to be read, the system's temporary folder by default; emptied
            of it at the end of the block.

    Raises:
        DataError: nothing is there, no known kind or several, a damaged archive, labels that do not fit.
        StoreError: the storage fails or refuses, or `scratch` has no space.
    """
    from kdray.data.pack.detect import opened

    with opened(uri, kind, split, scratch) as collections:
        yield collections


def _array(values: Any, kind: pa.DataType | None) -> Any:
    if isinstance(values, pa.ChunkedArray | pa.Array):
        return values if kind is None or values.type == kind else values.cast(kind)
    return pa.array(values, kind)


def _fingerprint(items: pa.Table, class_names: tuple[str, ...] | None) -> str:
    digest = hashlib.blake2b(json.dumps([items.num_rows, class_names]).encode(), digest_size=16)
    digest.update(items.column("label").to_numpy())
    digest.update(items.column("bytes").to_numpy())
    paths = items.column("path")
    digest.update(pc.binary_length(paths).cast(pa.int64()).to_numpy())
    for start in range(0, len(paths), 65536):  # buffers of any chunking hash alike when their rows are joined
        digest.update("".join(paths.slice(start, 65536).to_pylist()).encode())
    return digest.hexdigest()
