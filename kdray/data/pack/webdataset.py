"""WebDataset shards: tars whose members share a key, `0001.jpg` with `0001.cls` (a class number) or `0001.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdray.data.pack.collection import Collection, items_table
from kdray.data.pack.found import Found, Kind
from kdray.data.pack.listing import IMAGE_ENDINGS, told
from kdray.data.pack.members import Members
from kdray.data.pack.names import names_beside
from kdray.data.pack.shardset import Shards, find_shards, left_out, open_shards
from kdray.data.pack.tarindex import TarIndex
from kdray.errors import DataError

# As WebDataset splits a name: the folders and all up to the first dot of the last part are the key.
_NAME = r"^(?P<key>(?:[^/]*/)*[^/.]+)\.(?P<ending>[^/]*)$"
_JSON_KEYS = ("label", "cls", "class", "class_id")
_IMAGES = pa.array([ending[1:] for ending in sorted(IMAGE_ENDINGS)])
_FIX = (
    "Write KEY.cls with a class number, or KEY.json with a label, beside each KEY.jpg; --kind tar takes class folders"
)


def has_labels(indexes: Sequence[TarIndex]) -> bool:
    """Whether the tars hold label files beside images of the same key, and so are WebDataset shards."""
    return any(_has_labels(index) for index in indexes)


def _has_labels(index: TarIndex) -> bool:
    labels = index.content.is_valid()
    if not pc.any(labels).as_py():
        return False
    keys, endings = _keys(index)
    beside = pc.is_in(keys.filter(labels), keys.filter(pc.is_in(endings, _IMAGES)).drop_null())
    return bool(pc.any(beside).as_py())


def matches(found: Found) -> str:
    return ""  # tars are told apart by what is in them: see tars.py


def collect(found: Found) -> list[Collection]:
    shards = find_shards(found)
    if not shards:
        raise DataError("holds no tar", where=found.uri, fix="Name a tar, or a folder or pattern of tars")
    return collections(found, shards, {})


KIND = Kind("webdataset", "tars of samples: KEY.jpg with KEY.cls or KEY.json", matches, collect)


def collections(
    found: Found, shards: Sequence[Shards], opened: dict[str, tuple[list[TarIndex], bool]]
) -> list[Collection]:
    """One collection for each of `shards` that is wanted; those that are not in `opened` yet are opened.

    Labels that are names are numbered by their order in all splits, so then all splits are looked at. For numbers they
    are not, as that may mean to read other tars in full: the count of classes is of what is wanted.
    """
    found.check_split([one.split for one in shards])
    opened = dict(opened)
    parts: dict[str, list[_Samples]] = {}

    def look(one: Shards) -> None:
        if one.split not in parts:
            opened[one.split] = opened.get(one.split) or open_shards(found, one)
            parts[one.split] = [_samples(index) for index in opened[one.split][0]]

    for one in shards:
        if found.wants(one.split):
            look(one)
    names = names_beside(found)
    if any(samples.texts for part in parts.values() for samples in part):
        for one in shards if names is None else ():
            look(one)
        names = names or _all_names([samples for part in parts.values() for samples in part])
    numbers = [samples.numbers for part in parts.values() for samples in part if samples.numbers is not None]
    classes = 1 + max((int(each.max(initial=-1)) for each in numbers), default=-1)
    return [
        _collection(found, one, *opened[one.split], parts[one.split], names, classes)
        for one in shards
        if found.wants(one.split)
    ]


def _all_names(parts: list[_Samples]) -> tuple[str, ...]:
    for samples in parts:
        if samples.texts is None and len(samples.rows):
            where = samples.index.tar.uri
            raise DataError("has labels that are numbers, others have names", where=where, fix="Use one of both")
    return tuple(sorted({text for samples in parts for text in samples.texts or ()}))


def _collection(
    found: Found,
    shards: Shards,
    indexes: list[TarIndex],
    here: bool,
    parts: list[_Samples],
    names: tuple[str, ...] | None,
    classes: int,
) -> Collection:
    notes = left_out(indexes, 2 * sum(len(part.rows) for part in parts), "images or labels")
    paths = pa.chunked_array([part.index.names.take(pa.array(part.rows)) for part in parts], pa.string())
    if len(parts) > 1 and pc.count_distinct(paths).as_py() < len(paths):
        notes.append("keys come again in another shard, so each path begins with the name of its shard")
        paths = pa.chunked_array(
            [
                pc.binary_join_element_wise(tar.rpartition("/")[2], chunk, "/").cast(pa.string())
                for tar, chunk in zip(shards.tars, paths.chunks, strict=True)
            ]
        )
    counts = [len(part.rows) for part in parts]
    items = items_table(
        paths,
        np.concatenate([part.labels(names) for part in parts]),
        np.concatenate([part.index.size[part.rows] for part in parts]),
        file=pa.array(np.repeat(np.arange(len(parts)), counts), pa.int32()),
        offset=pa.array(np.concatenate([part.index.offset[part.rows] for part in parts]), pa.int64()),
    )
    return Members(
        items,
        [index.tar.uri for index in indexes],
        kind="webdataset",
        uri=found.uri,
        split=shards.split,
        has_splits=shards.has_splits,
        class_names=names,
        num_classes=classes,
        here=here,
        notes=notes,
    )


@dataclass
class _Samples:
    """Samples of one shard: row numbers of their images in its index, and a label each, as number or as text."""

    index: TarIndex
    rows: np.ndarray
    numbers: np.ndarray | None
    texts: list[str] | None

    def labels(self, names: Sequence[str] | None) -> np.ndarray:
        if self.texts is None:
            return self.numbers if self.numbers is not None else np.zeros(0, np.int64)
        numbers = pc.index_in(pa.array(self.texts, pa.string()), pa.array(names or (), pa.string()))
        if numbers.null_count:
            text = self.texts[pc.index(numbers.is_null(), True).as_py()]
            problem = f"has the label {text!r}, which is none of the {len(names or ())} class names"
            raise DataError(problem, where=self.index.tar.uri, fix="Correct the names beside the shards")
        return numbers.cast(pa.int64()).to_numpy(zero_copy_only=False)


def _samples(index: TarIndex) -> _Samples:
    where = index.tar.uri
    keys, endings = _keys(index)
    rows = np.flatnonzero(pc.is_in(endings, _IMAGES).to_numpy(zero_copy_only=False))
    if not len(rows):
        return _Samples(index, rows, None, None)
    codes = keys.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    samples = codes[rows]
    if len(np.unique(samples)) < len(samples):
        again = rows[np.flatnonzero(np.bincount(samples)[samples] > 1)[:2]]
        names = [index.names[int(row)].as_py() for row in again]
        raise DataError(
            f"one sample has two images: {told(names)}",
            where=where,
            fix="Keep one of them; --kind tar takes class folders",
        )
    label_row = np.full(int(codes.max()) + 1, -1, np.int64)
    for ending in ("json", "cls"):  # where both are there, the class number counts
        chosen = np.flatnonzero(pc.equal(endings, ending).fill_null(False).to_numpy(zero_copy_only=False))
        label_row[codes[chosen]] = chosen
    label_row = label_row[samples]
    without = np.flatnonzero(label_row < 0)
    if len(without):
        name = index.names[int(rows[without[0]])].as_py()
        raise DataError(f"{name} has no label ({len(without)} such images)", where=where, fix=_FIX)
    return _labelled(index, rows, label_row)


def _keys(index: TarIndex) -> tuple[pa.Array, pa.Array]:
    """(key, ending in lower case) of each member, null where its name has no such form."""
    split = pc.extract_regex(index.names, _NAME)
    return pc.struct_field(split, "key"), pc.utf8_lower(pc.struct_field(split, "ending"))


def _labelled(index: TarIndex, rows: np.ndarray, label_row: np.ndarray) -> _Samples:
    content = index.content.take(pa.array(label_row))
    names = index.names.take(pa.array(label_row))
    try:
        text = pc.utf8_trim_whitespace(content.cast(pa.string()))
        return _Samples(index, rows, text.cast(pa.int64()).to_numpy(zero_copy_only=False), None)
    except (pa.ArrowInvalid, ValueError):  # not all of them are plain numbers: look at each
        pass
    found = [_label(data, name, index) for data, name in zip(content.to_pylist(), names.to_pylist(), strict=True)]
    kinds = {type(label) for label in found}
    if kinds == {int}:
        return _Samples(index, rows, np.array(found, np.int64), None)
    if kinds == {str}:
        return _Samples(index, rows, None, [str(label) for label in found])
    raise DataError("has labels that are numbers and labels that are names", where=index.tar.uri, fix="Use one of both")


def _label(data: bytes | None, name: str, index: TarIndex) -> int | str:
    said: Any = data
    if data is not None:
        try:
            said = json.loads(data) if name.lower().endswith(".json") else int(data)
        except ValueError:
            said = data.decode("utf-8", "replace")[:40]
    if isinstance(said, dict):
        said = next((said[key] for key in _JSON_KEYS if key in said), None)
        if isinstance(said, str) and said:
            return int(said) if said.isdecimal() else said
    if isinstance(said, int) and not isinstance(said, bool) and abs(said) < 1 << 62:
        return said
    told_by = f"one of {', '.join(_JSON_KEYS)}" if name.lower().endswith(".json") else "a class number"
    problem = f"{name} says {said!r}, where {told_by} is expected" if said is not None else f"{name} has no label"
    raise DataError(problem, where=index.tar.uri, fix=_FIX)
