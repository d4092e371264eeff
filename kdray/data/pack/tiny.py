"""Tiny-ImageNet-200 from its zip or its folder; its test images have no labels and are left out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kdray.data.pack.collection import Collection, items_table
from kdray.data.pack.folder import in_folder
from kdray.data.pack.found import Found, Kind
from kdray.data.pack.imagefolder import ImageFolder, list_images
from kdray.data.pack.listing import entries
from kdray.data.pack.names import distinct
from kdray.data.pack.ranges import LOCAL_THREADS, REMOTE_THREADS
from kdray.data.pack.shardset import IMAGE
from kdray.data.pack.zips import ZipMembers, index_zip
from kdray.errors import DataError

ARCHIVE, FOLDER = "tiny-imagenet-200.zip", "tiny-imagenet-200"
_TRAIN = r"^train/(?P<wnid>[^/]+)/(?:images/)?(?P<name>[^/]+)$"
_VAL = r"^val/images/(?P<name>[^/]+)$"
_AGAIN = f"Fetch {ARCHIVE} again, whole"


def matches(found: Found) -> str:
    if found.files is not None:
        return ""
    if found.file:
        return found.name if found.name == ARCHIVE else ""
    if "wnids.txt" in found.entries and "train" in found.entries:
        return found.name
    return next((name for name in (FOLDER, ARCHIVE) if name in found.entries), "")


def collect(found: Found) -> list[Collection]:
    found.check_split(["train", "val"])
    place = found.uri
    if not found.file and "wnids.txt" not in found.entries:
        if not matches(found):
            raise DataError("holds nothing of it", where=place, fix=f"Put {ARCHIVE} there")
        place = found.at(matches(found))
    source = _zip(place) if place.endswith(".zip") else _folder(place)
    wnids = tuple(sorted(source.lines("wnids.txt")))
    if not wnids or len(set(wnids)) < len(wnids):
        raise DataError("wnids.txt names a class twice, or none", where=place, fix=_AGAIN)
    words = dict(line.split("\t", 1) for line in source.lines("words.txt") if "\t" in line)
    names = distinct([words.get(wnid, wnid) for wnid in wnids], wnids)
    collections = []
    for split, items_of in (("train", _train), ("val", _val)):
        if found.wants(split):
            items = items_of(source, wnids)
            notes = ["the test split has no labels and was left out"] if source.has_test else []
            given: dict[str, Any] = {"split": split, "class_names": names, "notes": notes}
            collections.append(source.collection(items, kind="tiny-imagenet", uri=found.uri, has_splits=True, **given))
    return collections


KIND = Kind("tiny-imagenet", f"{ARCHIVE}, or its folder", matches, collect)


@dataclass(frozen=True)
class _Source:
    """Either form of it: `images` has `source` (the name below the top folder), `bytes` and private columns."""

    place: str
    images: pa.Table
    has_test: bool
    lines: Callable[[str], list[str]]
    collection: Callable[..., Collection]


def _zip(uri: str) -> _Source:
    index = index_zip(uri)
    top = next((name[: -len("wnids.txt")] for name in index.names.to_pylist() if name.endswith("wnids.txt")), "")
    names = pc.utf8_slice_codeunits(index.names, len(top))
    table = pa.table({"source": names} | {name: pa.array(column) for name, column in index.columns.items()})

    def lines(name: str) -> list[str]:
        return [line.strip() for line in index.read(top + name).decode("utf-8", "replace").splitlines() if line.strip()]

    return _Source(
        uri,
        table.filter(pc.match_substring_regex(names, IMAGE)),
        bool(pc.any(pc.starts_with(names, "test/")).as_py()),
        lines,
        lambda items, **given: ZipMembers(items, uri, **given),
    )


def _folder(uri: str) -> _Source:
    def lines(name: str) -> list[str]:
        folder, _, last = f"{uri}/{name}".rpartition("/")
        return in_folder(folder).lines(last)

    classes = [entry.name for entry in entries(f"{uri}/train").values() if entry.folder]
    with ThreadPoolExecutor(REMOTE_THREADS if "://" in uri else LOCAL_THREADS) as pool:
        listed = list(pool.map(lambda name: list_images(uri, name), [f"train/{name}" for name in classes] + ["val"]))
    table = pa.table(
        {
            "source": pa.chunked_array([one.paths for one in listed], pa.string()),
            "bytes": pa.chunked_array([pa.array(one.sizes, pa.int64()) for one in listed], pa.int64()),
        }
    )
    return _Source(uri, table, "test" in entries(uri), lines, lambda items, **given: ImageFolder(items, uri, **given))


def _train(source: _Source, wnids: tuple[str, ...]) -> pa.Table:
    parts = pc.extract_regex(source.images["source"], _TRAIN)
    rows = source.images.filter(parts.is_valid())
    parts = parts.drop_null()
    wnid = pc.struct_field(parts, "wnid")
    labels = pc.index_in(wnid, pa.array(wnids, pa.string()))
    if labels.null_count:
        unknown = wnid.filter(labels.is_null())[0].as_py()
        raise DataError(f"train/{unknown} is no class of wnids.txt", where=source.place, fix=_AGAIN)
    if missing := sorted(set(wnids) - set(pc.unique(wnid).to_pylist())):
        raise DataError(f"train/ has no images of class {missing[0]}", where=source.place, fix=_AGAIN)
    return _items(rows, wnid, pc.struct_field(parts, "name"), labels)


def _val(source: _Source, wnids: tuple[str, ...]) -> pa.Table:
    parts = pc.extract_regex(source.images["source"], _VAL)
    rows = source.images.filter(parts.is_valid())
    name = pc.struct_field(parts.drop_null(), "name")
    said = [line.split("\t") for line in source.lines("val/val_annotations.txt")]
    if any(len(fields) < 2 or fields[1] not in wnids for fields in said):
        line = next(at for at, fields in enumerate(said, 1) if len(fields) < 2 or fields[1] not in wnids)
        problem = f"line {line} of val/val_annotations.txt names no class of wnids.txt"
        raise DataError(problem, where=source.place, fix=_AGAIN)
    places = pc.index_in(name, pa.array([fields[0] for fields in said], pa.string()))
    if places.null_count or len(said) != len(name):
        problem = f"val/ has {len(name)} images, and val_annotations.txt tells the class of {len(said)}"
        raise DataError(problem, where=source.place, fix=_AGAIN)
    wnid = pa.array([fields[1] for fields in said], pa.string()).take(places)
    return _items(rows, wnid, name, pc.index_in(wnid, pa.array(wnids, pa.string())))


def _items(rows: pa.Table, wnid: Any, name: Any, labels: Any) -> pa.Table:
    private = {column: rows[column] for column in rows.column_names if column != "bytes"}
    return items_table(pc.binary_join_element_wise(wnid, name, "/"), labels, rows["bytes"], **private)
