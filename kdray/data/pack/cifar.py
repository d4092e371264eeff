"""CIFAR-10 and CIFAR-100 from their official archives, for Python or binary, packed or unpacked."""

from __future__ import annotations

import codecs
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kdray.data.pack.collection import Collection, items_table
from kdray.data.pack.folder import Files, Release
from kdray.data.pack.found import Found, Kind
from kdray.data.pack.pixels import Pixels
from kdray.errors import DataError
from kdray.store.store import explaining

SIDE, ROW = 32, 3 * 32 * 32
_AGAIN = "Fetch the official archive again, whole"


@dataclass(frozen=True)
class _Layout:
    """Names in one release: files of each split without their ending, keys of labels and names, bytes before a row."""

    kind: str
    release: Release
    splits: dict[str, tuple[str, ...]]
    label: bytes
    meta: str
    names: bytes
    text: str
    label_bytes: int


_TEN = _Layout(
    kind="cifar10",
    release=Release(
        archives=("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
        folders=("cifar-10-batches-py", "cifar-10-batches-bin"),
        marks=(("data_batch_1", "batches.meta"), ("data_batch_1.bin", "batches.meta.txt")),
    ),
    splits={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
    label=b"labels",
    meta="batches.meta",
    names=b"label_names",
    text="batches.meta.txt",
    label_bytes=1,
)
_HUNDRED = _Layout(
    kind="cifar100",
    release=Release(
        archives=("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
        folders=("cifar-100-python", "cifar-100-binary"),
        marks=(("train", "test", "meta"), ("train.bin", "fine_label_names.txt")),
    ),
    splits={"train": ("train",), "test": ("test",)},
    label=b"fine_labels",
    meta="meta",
    names=b"fine_label_names",
    text="fine_label_names.txt",
    label_bytes=2,  # the coarse label, then the fine one
)


def _collector(layout: _Layout) -> Callable[[Found], list[Collection]]:
    return lambda found: _collect(found, layout)


KINDS = tuple(
    Kind(layout.kind, f"{' or '.join(layout.release.archives)}, or its folder", layout.release.find, _collector(layout))
    for layout in (_TEN, _HUNDRED)
)


def _collect(found: Found, layout: _Layout) -> list[Collection]:
    files = layout.release.open(found)
    found.check_split(list(layout.splits))
    binary = layout.text in files.pieces
    names = tuple(files.lines(layout.text)) if binary else _pickled_names(files, layout)
    collections: list[Collection] = []
    for split, parts in layout.splits.items():
        if not found.wants(split):
            continue
        places = _in_binary(files, parts, layout) if binary else _in_pickles(found, files, split, parts, layout)
        labels = places[0]
        items = items_table(
            [f"{split}/{row:05d}.png" for row in range(len(labels))],
            labels,
            np.full(len(labels), ROW),
            file=pa.array(places[2], pa.int32()),
            offset=pa.array(places[3], pa.int64()),
        )
        collections.append(
            Pixels(
                items,
                places[1],
                SIDE,
                kind=layout.kind,
                uri=found.uri,
                split=split,
                has_splits=True,
                class_names=names,
                here=files.here or not binary,
            )
        )
    return collections


Places = tuple[np.ndarray, list[str], np.ndarray, np.ndarray]  # labels, files, file and offset of each row


def _in_binary(files: Files, parts: tuple[str, ...], layout: _Layout) -> Places:
    step = layout.label_bytes + ROW
    labels, offsets, uris = [], [], []
    for part in parts:
        piece = files.piece(f"{part}.bin")
        data = np.frombuffer(files.read(f"{part}.bin"), np.uint8)
        if not len(data) or len(data) % step:
            problem = f"{part}.bin has {len(data)} bytes, no multiple of {step}: it is cut off"
            raise DataError(problem, where=files.uri, fix=_AGAIN)
        labels.append(data.reshape(-1, step)[:, layout.label_bytes - 1].astype(np.int64))
        offsets.append(piece.offset + layout.label_bytes + step * np.arange(len(labels[-1])))
        uris.append(piece.uri)
    file = np.repeat(np.arange(len(parts)), [len(one) for one in labels])
    return np.concatenate(labels), uris, file, np.concatenate(offsets)


def _in_pickles(found: Found, files: Files, split: str, parts: tuple[str, ...], layout: _Layout) -> Places:
    """The pixels of all parts, written as they are into one temporary file."""
    target = found.scratch.file(f"{layout.kind}-{split}.bin")
    found.scratch.need(sum(files.piece(part).size for part in parts), files.uri)
    labels: list[int] = []
    with explaining(target, "write"), open(target, "wb") as out:
        for part in parts:
            batch = _unpickled(files, part)
            data, own = batch.get(b"data"), batch.get(layout.label)
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (ROW,):
                raise DataError(f"{part} holds no images of 32 x 32", where=files.uri, fix=_AGAIN)
            if not isinstance(own, list) or len(own) != len(data) or not all(isinstance(label, int) for label in own):
                problem = f"{part} has {len(data)} images, but not as many labels"
                raise DataError(problem, where=files.uri, fix=_AGAIN)
            labels += own
            out.write(np.ascontiguousarray(data).data)
    count = len(labels)
    return np.array(labels, np.int64), [target], np.zeros(count, np.int32), ROW * np.arange(count)


def _pickled_names(files: Files, layout: _Layout) -> tuple[str, ...]:
    names = _unpickled(files, layout.meta).get(layout.names)
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{layout.meta} holds no class names", where=files.uri, fix=_AGAIN)
    return tuple(name.decode() for name in names)


def _unpickled(files: Files, name: str) -> dict[bytes, Any]:
    data = files.read(name)
    try:
        said = _Arrays(io.BytesIO(data), encoding="bytes").load()
    except Exception as exc:  # a damaged pickle raises whatever its last instruction meets
        if isinstance(exc, MemoryError):
            raise
        reason = " ".join(f"{type(exc).__name__} {exc}".split())[:120]
        raise DataError(f"{name} does not read: {reason}", where=files.uri, fix=_AGAIN) from exc
    if not isinstance(said, dict):
        raise DataError(f"{name} holds no batch", where=files.uri, fix=_AGAIN)
    return said


class _Arrays(pickle.Unpickler):
    """The archives for Python are pickles. Only what an array of numbers is made of is let in: no other code runs."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
            ("_codecs", "encode"): codecs.encode,
        }
        key = (module if module in ("numpy", "_codecs") else module.rpartition(".")[2], name)
        if key not in allowed or not module.startswith(("numpy", "_codecs")):
            raise pickle.UnpicklingError(f"{module}.{name} has no place in an archive of images")
        return allowed[key]
