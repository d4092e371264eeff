"""ILSVRC2012 as it is handed out: a tar of one tar a class for training, a flat tar for validation, the devkit.

Nothing is unpacked: the tars inside the tar are indexed side by side, and images are read from there by byte ranges.
Labels are the places of the WordNet ids among all of them, sorted, as torchvision's `ImageNet` gives them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdray.data.pack import devkit
from kdray.data.pack.collection import Collection, items_table
from kdray.data.pack.folder import whole
from kdray.data.pack.found import Found, Kind
from kdray.data.pack.listing import entries, told
from kdray.data.pack.members import Members
from kdray.data.pack.shardset import images_of, left_out
from kdray.data.pack.tarindex import Piece, TarIndex, index_tar, index_tars
from kdray.errors import DataError

TRAIN, VAL = "ILSVRC2012_img_train", "ILSVRC2012_img_val"
CLASSES = 1000
_CLASS_TAR = re.compile(r"(?:.*/)?(n\d{8})\.tar")
_VAL_NAME = r"(?:^|/)ILSVRC2012_val_(?P<number>\d{8})\.(?i:jpe?g)$"


def matches(found: Found) -> str:
    if found.files is not None or (found.file and found.name not in (f"{TRAIN}.tar", f"{VAL}.tar")):
        return ""
    return " and ".join(place.rpartition("/")[2] for place in (_train_place(found), _val_tar(found)) if place)


def collect(found: Found) -> list[Collection]:
    parent = Found(found.uri.rpartition("/")[0], False, None, None, found.scratch) if found.file else found
    kit_uri = devkit.find(parent)
    kit = devkit.read(found, kit_uri) if kit_uri else None
    train, val = _train_place(found), _val_tar(found)
    there = [split for split, place in (("train", train), ("val", val)) if place]
    if not there:
        fix = f"Put {TRAIN}.tar, {VAL}.tar and {devkit.ARCHIVE} there"
        raise DataError("holds no archive of ILSVRC2012", where=found.uri, fix=fix)
    found.check_split(there)
    given = _Given(found, kit, len(there) > 1)
    collections: list[Collection] = []
    if train and found.wants("train"):
        collections.append(_train(given, _class_tars(train)))
    if val and found.wants("val"):
        collections.append(_val(given, val))
    return collections


KIND = Kind("ilsvrc2012", f"{TRAIN}.tar, {VAL}.tar and {devkit.ARCHIVE} in one folder", matches, collect)


@dataclass(frozen=True)
class _Given:
    found: Found
    kit: devkit.Devkit | None
    has_splits: bool


def _train(given: _Given, tars: list[tuple[str, Piece]]) -> Collection:
    indexes = index_tars([piece for _, piece in tars])
    wnids = tuple(sorted(wnid for wnid, _ in tars))
    kit = given.kit
    if kit is not None and wnids != kit.wnids:
        missing, unknown = sorted(set(kit.wnids) - set(wnids)), sorted(set(wnids) - set(kit.wnids))
        what = f"lacks the tar of class {told(missing, 3)}" if missing else f"has class {told(unknown, 3)} besides"
        fix = f"Fetch it again; for a subset of the classes, move {devkit.ARCHIVE} away"
        where = given.found.uri if len({piece.uri for _, piece in tars}) > 1 else tars[0][1].uri
        raise DataError(f"{what}, the devkit has {len(kit.wnids)} classes", where=where, fix=fix)
    files = sorted({piece.uri for _, piece in tars})
    number = {uri: at for at, uri in enumerate(files)}
    rows = [images_of(index) for index in indexes]
    counts = [len(row) for row in rows]
    taken = list(zip(tars, indexes, rows, strict=True))
    items = items_table(
        pa.chunked_array([_paths(wnid, index, row) for (wnid, _), index, row in taken], pa.string()),
        np.repeat(np.array([wnids.index(wnid) for wnid, _ in tars], np.int64), counts),
        np.concatenate([index.size[row] for _, index, row in taken]),
        file=pa.array(np.repeat([number[piece.uri] for _, piece in tars], counts), pa.int32()),
        offset=pa.array(np.concatenate([index.offset[row] for _, index, row in taken]), pa.int64()),
    )
    notes = left_out(indexes, sum(counts))
    if kit is None and len(wnids) != CLASSES:  # only the devkit tells a subset that is meant from one that is not
        notes.append(f"tars of {len(wnids)} of ImageNet's {CLASSES} classes are there; with the devkit all must be")
    return _members(given, items, files, "train", kit.names if kit else wnids, notes)


def _val(given: _Given, uri: str) -> Collection:
    kit = given.kit
    if kit is None:
        fix = f"Put {devkit.ARCHIVE} (or its folder) beside it, or name only the training archive"
        raise DataError("has no labels without the development kit", where=uri, fix=fix)
    index = index_tar(whole(uri))
    numbers = pc.struct_field(pc.extract_regex(index.names, _VAL_NAME), "number")
    rows = np.flatnonzero(numbers.is_valid().to_numpy(zero_copy_only=False))
    which = numbers.drop_null().cast(pa.int64()).to_numpy(zero_copy_only=False)
    if len(rows) != len(kit.truth) or (len(rows) and (which.min() < 1 or which.max() > len(kit.truth))):
        problem = f"has {len(rows)} images, but the devkit's ground truth has {len(kit.truth)} lines"
        raise DataError(problem, where=uri, fix=f"Fetch the archive and {devkit.ARCHIVE} of the same release again")
    order = np.argsort(which, kind="stable")
    rows, labels = rows[order], kit.truth[which[order] - 1]
    folders = pa.array(kit.wnids, pa.string()).take(pa.array(labels))
    names = pc.replace_substring_regex(index.names.take(pa.array(rows)), r"^.*/", "")
    items = items_table(
        pc.binary_join_element_wise(folders, names, "/"),
        labels,
        index.size[rows],
        file=pa.array(np.zeros(len(rows)), pa.int32()),
        offset=pa.array(index.offset[rows], pa.int64()),
    )
    return _members(given, items, [uri], "val", kit.names, left_out([index], len(rows)))


def _members(
    given: _Given, items: pa.Table, files: list[str], split: str, names: tuple[str, ...], notes: list[str]
) -> Collection:
    return Members(
        items,
        files,
        kind="ilsvrc2012",
        uri=given.found.uri,
        split=split,
        has_splits=given.has_splits,
        class_names=names,
        notes=notes,
    )


def _paths(wnid: str, index: TarIndex, rows: np.ndarray) -> pa.Array:
    names = pc.replace_substring_regex(index.names.take(pa.array(rows)), r"^.*/", "")
    return pc.binary_join_element_wise(pa.scalar(wnid), names, "/").cast(pa.string())


def _train_place(found: Found) -> str | None:
    """The tar of class tars, or a folder of them."""
    if found.file:
        return found.uri if found.name != f"{VAL}.tar" else None
    if f"{TRAIN}.tar" in found.entries:
        return found.at(f"{TRAIN}.tar")
    if any(_CLASS_TAR.fullmatch(name) for name in found.entries):
        return found.uri
    inner = TRAIN in found.entries and found.entries[TRAIN].folder
    return found.at(TRAIN) if inner and any(_CLASS_TAR.fullmatch(name) for name in entries(found.at(TRAIN))) else None


def _val_tar(found: Found) -> str | None:
    if found.file:
        return found.uri if found.name == f"{VAL}.tar" else None
    return found.at(f"{VAL}.tar") if f"{VAL}.tar" in found.entries else None


def _class_tars(place: str) -> list[tuple[str, Piece]]:
    """(WordNet id, its tar), sorted."""
    if place.endswith(".tar"):
        pieces = index_tar(whole(place)).pieces()
    else:
        pieces = {name: Piece(f"{place}/{name}", 0, it.bytes) for name, it in entries(place).items()}
    tars = [(match[1], piece) for name, piece in pieces.items() if (match := _CLASS_TAR.fullmatch(name))]
    if not tars:
        fix = f"Fetch {TRAIN}.tar, which holds n01440764.tar and 999 more"
        raise DataError("holds no tar named by a WordNet id", where=place, fix=fix)
    return sorted(tars)
