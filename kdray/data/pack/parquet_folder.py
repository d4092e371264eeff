"""Parquet files as the Hugging Face Hub keeps image sets, and as kdray packs them: several splits in one folder.

`data/train-00000-of-00002.parquet` and the like, in the folder, in `data/` or in a folder for each split; the image as
struct<bytes, path> or bytes, the label as a class number, named or not by the schema's metadata, or as a string.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdray.data.footers import hugging_face_names
from kdray.data.pack.collection import Collection, items_table
from kdray.data.pack.columns import Columns, choose
from kdray.data.pack.found import Found, Kind
from kdray.data.pack.listing import entries, size_of, told
from kdray.data.pack.names import names_beside
from kdray.data.pack.parquet_rows import ParquetRows, Unreadable, read_columns, read_footer
from kdray.data.pack.ranges import LOCAL_THREADS, REMOTE_THREADS
from kdray.data.pack.shardset import split_of
from kdray.data.pack.splits import is_split, split_order
from kdray.errors import DataError

_ENDING = ".parquet"
_NUMBERED = re.compile(r"(?P<split>.+?)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(-[0-9a-f]+)?\.parquet")


def matches(found: Found) -> str:
    return f"{sum(map(len, files.values()))} Parquet files" if (files := _files(found)) else ""


def collect(found: Found) -> list[Collection]:
    files = _files(found)
    if not files:
        raise DataError("holds no *.parquet file", where=found.uri, fix="Name a folder, file or pattern of them")
    found.check_split(list(files))
    if found.files is None and not found.file:
        for split, uris in files.items():
            _check_whole(found, split, uris)
    threads = REMOTE_THREADS if "://" in found.uri else LOCAL_THREADS
    with ThreadPoolExecutor(threads) as pool:
        parts = {split: list(pool.map(_look, uris)) for split, uris in files.items()}
    return _collections(found, parts)


KIND = Kind("parquet", "Parquet files with an image and a label column, such as data/train-*.parquet", matches, collect)


def _files(found: Found) -> dict[str, list[str]]:
    """URIs of the files of each split, "train" first."""
    if found.file:
        names = [found.name] if found.name.endswith(_ENDING) else []
        return {_split_of(name): [found.uri] for name in names}
    if found.files is not None:
        return _grouped({name: found.at(name) for name in found.files})
    files = _grouped({name: found.at(name) for name, it in found.entries.items() if not it.folder})
    folders = [it.name for it in found.entries.values() if it.folder and (it.name == "data" or is_split(it.name))]
    for folder in sorted(folders, key=lambda name: (name != "data", split_order(name))) if not files else ():
        at = found.at(folder)
        inside = {name: f"{at}/{name}" for name, it in entries(at).items() if not it.folder and _is_ours(name)}
        if folder == "data":
            files = _grouped(inside)
        elif inside:
            files[folder] = list(inside.values())
    return files


def _grouped(uris: dict[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, uri in uris.items():
        if _is_ours(name):
            groups.setdefault(_split_of(name), []).append(uri)
    return {split: groups[split] for split in sorted(groups, key=split_order)}


def _is_ours(name: str) -> bool:
    return name.endswith(_ENDING) and not name.startswith(("_", "."))


def _split_of(name: str) -> str:
    numbered = _NUMBERED.fullmatch(name)
    return numbered["split"] if numbered else split_of(name.removesuffix(_ENDING)) or "train"


def _check_whole(found: Found, split: str, uris: Sequence[str]) -> None:
    seen: dict[int, set[int]] = {}
    for uri in uris:
        if numbered := _NUMBERED.fullmatch(uri.rpartition("/")[2]):
            seen.setdefault(int(numbered["count"]), set()).add(int(numbered["number"]))
    for count, numbers in seen.items():
        if missing := sorted(set(range(count)) - numbers):
            problem = f"{len(missing)} of {count} files of {split!r} are missing, the first is number {missing[0]}"
            fix = "Fetch the set again, or name the files that are meant by a pattern"
            raise DataError(problem, where=found.uri, fix=fix)


@dataclass(frozen=True)
class _Part:
    """What one file says: rows of each row group, labels as they stand, paths (or None), bytes of an image, about."""

    uri: str
    size: int
    columns: Columns
    groups: np.ndarray
    image_bytes: np.ndarray
    labels: pa.ChunkedArray
    paths: pa.ChunkedArray | None
    names: tuple[str, ...] | None

    @property
    def rows(self) -> int:
        return len(self.labels)


def _look(uri: str) -> _Part:
    size = size_of(uri)
    try:
        metadata = read_footer(uri, size)
        schema = metadata.schema.to_arrow_schema().with_metadata(metadata.metadata)
        columns = choose(schema, uri)
        table = read_columns(uri, size, "", None, [columns.label, *([columns.path] if columns.path else [])])
    except Unreadable as exc:
        raise DataError(f"does not read: {exc}", where=uri, fix="Fetch or write it again") from exc
    at = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == columns.image)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    labels = table.column(columns.label)
    if pa.types.is_dictionary(labels.type) or pa.types.is_large_string(labels.type):
        labels = labels.cast(pa.string())
    return _Part(
        uri=uri,
        size=size,
        columns=columns,
        groups=np.array([group.num_rows for group in groups], np.int64),
        image_bytes=np.array([group.column(at).total_uncompressed_size for group in groups], np.int64),
        labels=labels,
        paths=pc.struct_field(table.column(columns.path.split(".")[0]), "path") if columns.path else None,
        names=hugging_face_names(schema.metadata, columns.label),
    )


def _collections(found: Found, parts: dict[str, list[_Part]]) -> list[Collection]:
    whole = [part for of_split in parts.values() for part in of_split]
    for part in whole:
        if part.columns != whole[0].columns or part.labels.type != whole[0].labels.type:
            problem = f"its columns are of another kind than those of {whole[0].uri.rpartition('/')[2]}"
            raise DataError(problem, where=part.uri, fix="Write all files with one schema")
    unlabelled = [split for split, of_split in parts.items() if split != found.split and _has_no_labels(of_split)]
    parts = {split: of_split for split, of_split in parts.items() if split not in unlabelled}
    whole = [part for of_split in parts.values() for part in of_split]
    if not parts:
        raise DataError("no row of it has a label", where=found.uri, fix="Name a set with labels")
    notes = [f"{told(unlabelled)} has no labels and was left out"] if unlabelled else []
    for part in whole:
        if part.labels.null_count:
            row = pc.index(part.labels.is_null(), True).as_py()
            raise DataError(f"row {row} has no label", where=part.uri, fix="Leave such rows out")
    names = _names(found, whole)
    classes = max(_highest(part) for part in whole) + 1  # of all splits, whichever is wanted: all were looked at
    return [
        _collection(found, split, of_split, names, classes, notes, len(parts) + len(unlabelled) > 1)
        for split, of_split in parts.items()
        if found.wants(split)
    ]


def _has_no_labels(parts: list[_Part]) -> bool:
    """Whether there are rows and none has a label; -1 stands for none on the Hub."""
    return any(part.rows for part in parts) and all(
        part.labels.null_count == part.rows
        or (pa.types.is_integer(part.labels.type) and int(pc.max(part.labels).as_py()) < 0)
        for part in parts
    )


def _names(found: Found, parts: list[_Part]) -> tuple[str, ...] | None:
    said = {part.names: part.uri for part in parts if part.names}
    if len(said) > 1:
        first, second = list(said.values())[:2]
        problem = f"its class names are others than those of {second.rpartition('/')[2]}"
        raise DataError(problem, where=first, fix="Take all files from one release")
    names = next(iter(said), None) or names_beside(found)
    if names is None and parts and pa.types.is_string(parts[0].labels.type):
        names = tuple(sorted({name for part in parts for name in pc.unique(part.labels).to_pylist()}))
    return names


def _collection(
    found: Found,
    split: str,
    parts: list[_Part],
    names: tuple[str, ...] | None,
    classes: int,
    notes: list[str],
    has_splits: bool,
) -> Collection:
    rows = [part.rows for part in parts]
    numbers = [np.repeat(np.arange(len(part.groups)), part.groups) for part in parts]
    starts = [np.repeat(np.cumsum(part.groups) - part.groups, part.groups) for part in parts]
    each = [part.image_bytes // np.maximum(part.groups, 1) for part in parts]
    file = np.repeat(np.arange(len(parts)), rows)
    row = [np.arange(count) for count in rows]
    paths, path_notes = _paths(parts, row)
    first = np.cumsum([0, *(len(part.groups) for part in parts)])[:-1]
    items = items_table(
        paths,
        np.concatenate([_labels(part, names) for part in parts]),
        np.concatenate([size[number] for size, number in zip(each, numbers, strict=True)]),
        file=pa.array(file, pa.int32()),
        group=pa.array(np.concatenate(numbers), pa.int32()),
        row=pa.array(np.concatenate([at - start for at, start in zip(row, starts, strict=True)]), pa.int32()),
        block=pa.array(np.concatenate([number + at for number, at in zip(numbers, first, strict=True)]), pa.int32()),
    )
    return ParquetRows(
        items,
        [part.uri for part in parts],
        [part.size for part in parts],
        parts[0].columns.image,
        max(int(part.image_bytes.max(initial=0)) for part in parts),
        kind="parquet",
        uri=found.uri,
        split=split,
        has_splits=has_splits,
        class_names=names,
        num_classes=classes,
        notes=[*notes, *path_notes],
    )


def _highest(part: _Part) -> int:
    """The highest class number, -1 where labels are names or there are none."""
    return int(pc.max(part.labels).as_py() or 0) if part.rows and pa.types.is_integer(part.labels.type) else -1


def _labels(part: _Part, names: tuple[str, ...] | None) -> np.ndarray:
    if not pa.types.is_string(part.labels.type):
        return part.labels.cast(pa.int64()).to_numpy()
    labels = pc.index_in(part.labels, pa.array(names or (), pa.string()))
    if labels.null_count:
        text = part.labels.filter(labels.is_null())[0].as_py()
        problem = f"has the label {text!r}, which is none of the {len(names or ())} class names"
        raise DataError(problem, where=part.uri, fix="Correct the label or the list of names")
    return labels.cast(pa.int64()).to_numpy()


def _paths(parts: list[_Part], row: list[np.ndarray]) -> tuple[pa.ChunkedArray, list[str]]:
    """The files' own paths where they tell images apart, else file name and row."""
    own = [part.paths for part in parts if part.paths is not None]
    if len(own) == len(parts) and not any(paths.null_count for paths in own):
        paths = pa.chunked_array([chunk for one in own for chunk in one.chunks], pa.string())
        if pc.count_distinct(paths).as_py() == len(paths) and not pc.any(pc.equal(paths, "")).as_py():
            return paths, []
    made = []
    for part, at in zip(parts, row, strict=True):
        number = pc.utf8_lpad(pa.array(at).cast(pa.string()), 6, "0")
        made.append(pc.binary_join_element_wise(part.uri.rpartition("/")[2], number, "/"))
    notes = ["the images' paths are not there or not unique, so file name and row stand for them"] if own else []
    return pa.chunked_array([one.cast(pa.string()) for one in made], pa.string()), notes
