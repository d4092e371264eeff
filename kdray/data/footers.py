"""Parquet shards from their footers: which files there are, and what each says of itself in its last kilobytes."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from kdray.data.layout import ColumnNames
from kdray.data.remote import read_tail
from kdray.errors import DataError, nearest
from kdray.store import open_uri
from kdray.store.place import parse
from kdray.store.store import explaining

THREADS = 16
_NUMBERED = re.compile(r"^(?P<split>.*)-(?P<number>\d{5,})-of-(?P<count>\d{5,})\.parquet$")


@dataclass(frozen=True)
class Found:
    """Files at a URI: `files` are (name, bytes) of the shards in order, `others` the names of all other files.

    `picked` says that a glob or a file name chose them, so that a part of a set is meant.
    """

    uri: str
    folder: str
    files: tuple[tuple[str, int], ...]
    others: frozenset[str]
    picked: bool


@dataclass(frozen=True)
class Footer:
    """What one footer says; `columns` are (image, label, id, image kind), `labels` (lowest, highest) where known."""

    name: str
    bytes: int
    rows: int
    row_groups: tuple[int, ...]
    columns: tuple[str, str, str | None, Literal["binary", "struct"]]
    labels: tuple[int, int] | None
    image_bytes: int
    class_names: tuple[str, ...] | None
    digest: str


def find_shards(uri: str) -> Found:
    """List the shards that `uri` names: a folder, one file, or a glob in its last part.

    Raises:
        DataError: nothing is there, or no Parquet file.
        StoreError: the storage does not answer or refuses.
    """
    import pyarrow.fs as fs

    place = parse(uri)
    files, _ = open_uri(place.uri)
    folder, _, last = place.uri.rpartition("/")
    pattern: str | None = last if any(mark in last for mark in "*?[") else None
    if pattern is None:
        with explaining(place.uri, "read"):
            kind = files.get_file_info(place.path).type
        if kind == fs.FileType.NotFound:
            raise DataError("does not exist", where=place.uri, fix="Check the path")
        if kind == fs.FileType.File:
            pattern = "".join(f"[{c}]" if c in "*?[" else c for c in last)
        else:
            folder = place.uri
    with explaining(folder, "list"):
        selector = fs.FileSelector(parse(folder).path, recursive=False, allow_not_found=True)
        listed = {info.base_name: int(info.size) for info in files.get_file_info(selector) if info.is_file}
    names = sorted(name for name in listed if fnmatch.fnmatchcase(name, pattern or "*.parquet"))
    if pattern is None:
        names = [name for name in names if not name.startswith((".", "_"))]
    if not names:
        what = f"no file matches {pattern!r}" if pattern else "holds no *.parquet file"
        there = f"; it has {', '.join(sorted(listed)[:5])}" if listed else ""
        where = folder if pattern else place.uri
        raise DataError(what + there, where=where, fix="Name a folder, a file or a glob of Parquet shards")
    chosen = tuple((name, listed[name]) for name in names)
    return Found(place.uri, folder, chosen, frozenset(listed) - set(names), pattern is not None)


def check_numbering(found: Found) -> None:
    """Refuse a folder whose file names (`train-00003-of-00005.parquet`) tell that shards are missing."""
    seen: dict[tuple[str, int], set[int]] = {}
    for name, _ in found.files:
        match = _NUMBERED.match(name)
        if match:
            seen.setdefault((match["split"], int(match["count"])), set()).add(int(match["number"]))
    for (split, count), numbers in seen.items():
        missing = sorted(set(range(count)) - numbers)
        if missing:
            raise DataError(
                f"{len(missing)} of {count} shards of {split!r} are missing, the first is number {missing[0]}",
                where=found.folder,
                fix=f"Copy the set again, or name the shards that are meant: {found.folder}/{split}-*.parquet",
            )
    if len({split for split, _ in seen}) > 1:
        splits = sorted({split for split, _ in seen})
        raise DataError(
            f"holds several sets: {', '.join(splits)}",
            where=found.folder,
            fix=f"Name the one that is meant: {found.folder}/{splits[0]}-*.parquet",
        )


def read_footers(found: Found, wanted: ColumnNames) -> list[Footer]:
    """Read all footers in parallel; raises `DataError` naming the first file that is wrong."""

    def one(file: tuple[str, int]) -> Footer:
        name, size = file
        where = f"{found.folder}/{name}"
        return _parse(where, name, size, read_tail(where, size), wanted)

    with ThreadPoolExecutor(THREADS) as pool:
        footers = list(pool.map(one, found.files))
    for footer in footers:
        if footer.columns != footers[0].columns:
            problem = f"its columns are of another kind than those of {footers[0].name}"
            raise DataError(problem, where=f"{found.folder}/{footer.name}", fix="Write all shards with one schema")
    return footers


def _parse(where: str, name: str, size: int, tail: bytes, wanted: ColumnNames) -> Footer:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(pa.BufferReader(tail))
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise DataError(f"its footer does not read: {reason}", where=where, fix="Copy or write it again") from exc
    columns = image_columns(where, schema, wanted)
    rows, labels, image_bytes, end = [], [], 0, 0
    known = True
    paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    image = columns[0] if columns[3] == "binary" else f"{columns[0]}.bytes"
    at_image, at_label = paths.index(image), paths.index(columns[1])
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        rows.append(group.num_rows)
        for column in (at_image, at_label):
            chunk = group.column(column)
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                start = min(start, chunk.dictionary_page_offset)
            end = max(end, start + chunk.total_compressed_size)
        image_bytes += group.column(at_image).total_uncompressed_size
        facts = group.column(at_label).statistics
        if facts is not None and facts.has_min_max:
            labels.append((int(facts.min), int(facts.max)))
        elif group.num_rows:
            known = False
    if end > size - len(tail):
        raise DataError("is shorter than its footer says", where=where, fix="Copy or write it again")
    return Footer(
        name=name,
        bytes=size,
        rows=metadata.num_rows,
        row_groups=tuple(rows),
        columns=columns,
        labels=(min(low for low, _ in labels), max(high for _, high in labels)) if known and labels else None,
        image_bytes=image_bytes,
        class_names=hugging_face_names(metadata.metadata, columns[1]),
        digest=hashlib.blake2b(tail, digest_size=16).hexdigest(),
    )


def image_columns(
    where: str, schema: Any, wanted: ColumnNames
) -> tuple[str, str, str | None, Literal["binary", "struct"]]:
    """(image, label, id, image kind) of an Arrow schema; raises `DataError` for columns that are missing or no such."""
    import pyarrow.types as types

    def kind_of(key: str, name: str) -> Any:
        if name not in schema.names:
            hint = nearest(name, schema.names)
            problem = f"has no column {name!r}{hint}; its columns are {', '.join(schema.names)}"
            raise DataError(problem, where=where, fix=f"Set data.columns.{key}")
        return schema.field(name).type

    def is_bytes(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)

    image, label, key = wanted.image, wanted.label, wanted.id
    kind = kind_of("image", image)
    struct = types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and is_bytes(kind.field("bytes").type)
    if not struct and not is_bytes(kind):
        raise DataError(
            f"column {image!r} is {kind}, not encoded images",
            where=where,
            fix="Store the bytes of a JPEG or PNG as binary or struct<bytes: binary, path: string>",
        )
    kind = kind_of("label", label)
    if not types.is_integer(kind):
        fix = "Store class numbers 0..C-1 as integers"
        if types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind):
            fix += ", and the names in classes.json or as a Hugging Face ClassLabel (class_encode_column)"
        raise DataError(f"column {label!r} is {kind}, not class numbers", where=where, fix=fix)
    if key is not None:
        kind = kind_of("id", key)
        text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        if not (types.is_integer(kind) or text or is_bytes(kind)):
            fix = "Use an integer, string or binary column, or remove data.columns.id"
            raise DataError(f"column {key!r} is {kind}, which cannot be a sample's id", where=where, fix=fix)
    return image, label, key, "struct" if struct else "binary"


def hugging_face_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """Names of the Hugging Face ClassLabel of the label column; None where the schema has none that reads."""
    try:
        said = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        names = said["info"]["features"][label]["names"]
        # datasets writes a list; its dataset cards write a map of numbers as strings
        names = [names[str(number)] for number in range(len(names))] if isinstance(names, dict) else names
        return tuple(str(name) for name in names) or None
    except (ValueError, KeyError, TypeError):
        return None
