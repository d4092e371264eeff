"""One shard read again, whole: its file, its structure, and every row of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdray.data.decode import BadImage, decode
from kdray.data.footers import hugging_face_names, image_columns
from kdray.data.layout import ShardColumns
from kdray.data.pack.changes import Changes, Rows, written_as
from kdray.data.pack.parts import Stopped
from kdray.data.pack.rows_file import ShardRows
from kdray.data.pack.seen import check_seen
from kdray.data.pack.statistics import Tally
from kdray.data.remote import is_remote
from kdray.data.shard_file import RowDigest
from kdray.errors import DataError, StoreError
from kdray.store import Store, open_uri
from kdray.store.explain import explain

KEPT = 1000  # problems of one shard that are told apart
WHOLE_BYTES = 1 << 30  # shards that are read at once from an object store
_BLOCK = 8 << 20


@dataclass(frozen=True)
class Problem:
    """Something wrong with `file`; `row` counts from 0 in that file, None: with the file."""

    file: str
    reason: str
    row: int | None = None
    id: str | None = None

    def __str__(self) -> str:
        row = "" if self.row is None else f" row {self.row}"
        key = "" if self.id is None else f" ({self.id})"
        return f"{self.file}{row}{key}: {self.reason}"


@dataclass(frozen=True)
class Expected:
    """What is known of a shard beforehand: all of it from the manifest, of a set without one only name and size; `rows`
    are missing in older sets, too.
    """

    name: str
    bytes: int
    row_groups: tuple[int, ...] | None = None
    sha256: str | None = None
    digests: tuple[str, ...] | None = None
    rows: ShardRows | None = None


@dataclass(frozen=True)
class Check:
    """What the checks of all shards share; `num_classes` and `class_names` None: as each shard itself says."""

    folder: str
    columns: ShardColumns
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None


@dataclass
class Checked:
    """What one shard holds; `ids` are its rows' ids (null where a row group does not read), None where it has none;
    `image_bytes` and `tally` are of the images that decode; `more` problems are not told.
    """

    name: str
    bytes: int
    rows: int = 0
    ids: pa.Array | None = None
    class_counts: Counter[int] = field(default_factory=Counter)
    image_bytes: int = 0
    tally: Tally = field(default_factory=Tally)
    problems: list[Problem] = field(default_factory=list)
    more: int = 0

    def add(self, reason: str, row: int | None = None, key: Any = None) -> None:
        if len(self.problems) < KEPT:
            self.problems.append(Problem(self.name, reason, row, None if key is None else str(key)))
        else:
            self.more += 1


def check_shard(job: Check, expected: Expected, stopped: Callable[[], bool] = lambda: False) -> Checked:
    """Read a shard again and say all that is wrong with it.

    Raises:
        DataError: this node does not see the folder, which says nothing about the shard.
        StoreError: the storage fails, which does not either.
        Stopped: `stopped()`.
    """
    check_seen(job.folder)
    result = Checked(expected.name, 0)
    uri = f"{job.folder.rstrip('/')}/{expected.name}"
    try:
        with _reading(uri):
            if is_remote(uri) and expected.bytes <= WHOLE_BYTES:
                # One request, tried again where that helps; a shard is no larger than a task may hold.
                file = pa.BufferReader(Store(uri).read_bytes(""))
            else:
                files, path = open_uri(uri)
                file = files.open_input_file(path)
            with file:
                _check_file(job, expected, file, result, stopped)
    except FileNotFoundError:
        result.add("is missing")
    except StoreError as exc:
        if not isinstance(exc.__cause__, FileNotFoundError):
            raise
        result.add("is missing")
    except pa.ArrowException as exc:
        result.add(f"does not read: {_short(exc)}")
    except DataError as exc:
        result.add(exc.problem)
    return result


def _check_file(job: Check, expected: Expected, file: Any, result: Checked, stopped: Callable[[], bool]) -> None:
    result.bytes = file.size()
    if result.bytes != expected.bytes:
        result.add(f"has {result.bytes} bytes instead of {expected.bytes}: cut off or changed")
    same = True
    if expected.sha256 is not None:
        digest = hashlib.sha256()
        while block := file.read_buffer(_BLOCK):
            digest.update(block)
        file.seek(0)
        same = digest.hexdigest() == expected.sha256
    found = len(result.problems) + result.more
    try:
        with pq.ParquetFile(file) as shard:
            _check_rows(job, expected, shard, result, stopped)
    finally:
        if not same and len(result.problems) + result.more == found:
            result.add("its bytes are not those that were written (SHA-256), though all its rows read")


def _check_rows(
    job: Check, expected: Expected, shard: pq.ParquetFile, result: Checked, stopped: Callable[[], bool]
) -> None:
    uri = f"{job.folder}/{expected.name}"
    image, label, key, kind = image_columns(uri, shard.schema_arrow, job.columns)
    names = hugging_face_names(shard.schema_arrow.metadata, label)
    if job.class_names is not None and names is not None and names != job.class_names:
        result.add("its schema names other classes than the manifest")
    classes = job.num_classes or (len(names) if names else None)
    sizes = tuple(shard.metadata.row_group(group).num_rows for group in range(shard.num_row_groups))
    result.rows = sum(sizes)
    if expected.row_groups is not None and sizes != expected.row_groups:
        result.add(f"has {sum(sizes)} rows in {len(sizes)} row groups, not as the manifest says")
    wanted = [image if kind == "binary" else f"{image}.bytes", label, *([key] if key else [])]
    ids: list[pa.Array] = []
    first = 0
    changes = Changes(expected, sizes, result)
    for group, size in enumerate(sizes):
        try:
            with _reading(uri):
                table = shard.read_row_group(group, columns=wanted, use_threads=False)
        except pa.ArrowException as exc:
            result.add(f"row group {group} (rows {first} to {first + size - 1}) does not read: {_short(exc)}", first)
            if key:
                ids.append(pa.nulls(size, shard.schema_arrow.field(key).type))
            changes.unread = True
            first += size
            continue
        keys = table.column(key).combine_chunks() if key else None
        images = table.column(image)
        images = pc.struct_field(images, "bytes") if kind == "struct" else images
        rows = Rows(images, table.column(label), keys)
        changes.look(group, first, rows, *_check_group(rows, first, classes, result, stopped))
        if keys is not None:
            ids.append(keys)
        first += size
    changes.end()
    if key:
        result.ids = pa.chunked_array(ids).combine_chunks() if ids else None


def _check_group(
    rows: Rows, first: int, classes: int | None, result: Checked, stopped: Callable[[], bool]
) -> tuple[str, set[int]]:
    """Check the rows of one row group and return the digest of what they hold, and the rows that are told as wrong."""
    digest, named = RowDigest(), set[int]()

    def wrong(reason: str, row: int, key: Any = None) -> None:
        result.add(reason, row, key)
        named.add(row)

    for row, (image, label, key) in enumerate(rows, first):
        if stopped():
            raise Stopped
        if rows.ids is not None and key is None:
            wrong("has no id", row)
        if label is None:
            wrong("has no label", row, key)
        elif label < 0 or (classes is not None and label >= classes):
            last = "0 and up" if classes is None else f"0..{classes - 1}"
            wrong(f"has the label {label}, but labels are {last}", row, key)
        else:
            result.class_counts[label] += 1
        if not image.is_valid:
            wrong("has no image", row, key)
            continue
        data = image.as_buffer().to_pybytes()
        digest.add(data, *written_as(label, key))
        try:
            height, width = decode(data).shape[:2]
        except BadImage as exc:
            wrong(f"its image does not decode: {exc}", row, key)
            continue
        result.image_bytes += len(data)
        result.tally.add((height, width))
    return digest.hexdigest(), named


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    """Tell what is wrong with a file (ArrowException, FileNotFoundError) from a storage that fails (StoreError)."""
    try:
        yield
    except (pa.ArrowException, FileNotFoundError):
        raise
    except OSError as exc:
        if exc.errno is None and "AWS" not in str(exc) and "google" not in str(exc):  # Parquet's own complaints
            raise pa.ArrowInvalid(str(exc)) from exc
        raise explain(exc, uri, "read") from exc


def _short(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200]
