"""STL-10 from its official archive, packed or unpacked: 96 x 96 pixels, column by column, labels from 1."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from kdray.data.pack.collection import Collection, items_table
from kdray.data.pack.folder import Files, Release
from kdray.data.pack.found import Found, Kind
from kdray.data.pack.pixels import Pixels
from kdray.errors import DataError

SIDE = 96
ROW = 3 * SIDE * SIDE
_LABELLED, _UNLABELED = ("train", "test"), "unlabeled"
_RELEASE = Release(("stl10_binary.tar.gz",), ("stl10_binary",), (("train_X.bin", "train_y.bin"),))
_AGAIN = "Fetch stl10_binary.tar.gz again, whole"


def collect(found: Found) -> list[Collection]:
    """`train` and `test`; `unlabeled` only when it is asked for."""
    files = _RELEASE.open(found)
    found.check_split([*_LABELLED, _UNLABELED])
    wanted = [found.split] if found.split is not None else list(_LABELLED)
    return [_collection(found, files, split) for split in wanted]


KIND = Kind("stl10", "stl10_binary.tar.gz, or its folder", _RELEASE.find, collect)


def _collection(found: Found, files: Files, split: str) -> Collection:
    piece = files.piece(f"{split}_X.bin")
    count, rest = divmod(piece.size, ROW)
    if rest or not count:
        problem = f"{split}_X.bin has {piece.size} bytes, no multiple of {ROW}: it is cut off"
        raise DataError(problem, where=files.uri, fix=_AGAIN)
    if split == _UNLABELED:
        names, labels, notes = [_UNLABELED], np.zeros(count, np.int64), ["its images have no class: all labels are 0"]
    else:
        names, notes = files.lines("class_names.txt"), []
        labels = np.frombuffer(files.read(f"{split}_y.bin"), np.uint8).astype(np.int64) - 1
    if len(labels) != count:
        problem = f"{split}_X.bin has {count} images, but {split}_y.bin has {len(labels)} labels"
        raise DataError(problem, where=files.uri, fix=_AGAIN)
    items = items_table(
        [f"{split}/{row:06d}.png" for row in range(count)],
        labels,
        np.full(count, ROW),
        file=pa.array(np.zeros(count), pa.int32()),
        offset=pa.array(piece.offset + ROW * np.arange(count), pa.int64()),
    )
    return Pixels(
        items,
        [piece.uri],
        SIDE,
        by_column=True,
        kind="stl10",
        uri=found.uri,
        split=split,
        has_splits=True,
        class_names=names,
        here=files.here,
        notes=notes,
    )
