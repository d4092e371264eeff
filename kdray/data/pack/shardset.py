"""Which tars make up which split, and the index of each."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdray.data.pack.found import Found
from kdray.data.pack.listing import IMAGE_ENDINGS, entries
from kdray.data.pack.ranges import LOCAL_THREADS, REMOTE_THREADS
from kdray.data.pack.splits import SPLITS, is_split, split_order
from kdray.data.pack.tarindex import TarIndex, index_tars
from kdray.data.pack.unpack import ENDINGS, plain_tar

IMAGE = r"(?i)\.(" + "|".join(sorted(ending[1:] for ending in IMAGE_ENDINGS)) + ")$"
_HIDDEN = r"(^|/)(\.|__MACOSX(/|$))"


@dataclass(frozen=True)
class Shards:
    """The tars of one split, as URIs; `has_splits` says that the names tell more splits than one."""

    split: str
    has_splits: bool
    tars: tuple[str, ...]


def is_tar(name: str) -> bool:
    return name.lower().endswith((".tar", *ENDINGS))


def find_shards(found: Found) -> list[Shards]:
    """Tars of each split: split folders, or `train`, `val`, ... as a word of the file names, or one split, "train"."""
    if found.file:
        return [Shards(split_of(found.name) or "train", False, (found.uri,))] if is_tar(found.name) else []
    names = found.files if found.files is not None else [name for name, it in found.entries.items() if not it.folder]
    groups: dict[str, list[str]] = {}
    for name in names:
        if is_tar(name):
            groups.setdefault(split_of(name) or "", []).append(found.at(name))
    if not groups and found.files is None:
        folders = [it.name for it in found.entries.values() if it.folder and is_split(it.name)]
        for folder in sorted(folders, key=split_order):
            inside = [name for name, it in entries(found.at(folder)).items() if not it.folder and is_tar(name)]
            if inside:
                groups[folder] = [f"{found.at(folder)}/{name}" for name in inside]
        return [Shards(split, True, tuple(tars)) for split, tars in groups.items()]
    if "" in groups:  # a word in some names only says nothing
        together = sorted(tar for tars in groups.values() for tar in tars)
        return [Shards("train", False, tuple(together))]
    ordered = sorted(groups, key=split_order)
    return [Shards(split, len(groups) > 1, tuple(groups[split])) for split in ordered]


def split_of(name: str) -> str | None:
    """The split that is a word of a file's name, such as `imagenet-train-000001.tar`."""
    return next((word for word in re.split(r"[-_.\d]+", name.lower()) if word in SPLITS), None)


def open_shards(found: Found, shards: Shards) -> tuple[list[TarIndex], bool]:
    """(index of each tar, whether one had to be unpacked here)."""
    with ThreadPoolExecutor(REMOTE_THREADS if "://" in found.uri else LOCAL_THREADS) as pool:
        plain = list(pool.map(lambda tar: plain_tar(tar, found.scratch), shards.tars))
    return index_tars([piece for piece, _ in plain]), any(unpacked for _, unpacked in plain)


def images_of(index: TarIndex) -> np.ndarray:
    """Row numbers of members that are images by their ending and not hidden."""
    shown = pc.and_not(pc.match_substring_regex(index.names, IMAGE), pc.match_substring_regex(index.names, _HIDDEN))
    return np.flatnonzero(shown.to_numpy(zero_copy_only=False))


def left_out(indexes: list[TarIndex], taken: int, what: str = "images") -> list[str]:
    """A note about members that are not `taken`."""
    notes = []
    others = sum(len(index.names) for index in indexes) - taken
    if others:
        notes.append(f"{others} files in the archives that are no {what} were left out")
    if links := sum(index.links for index in indexes):
        notes.append(f"{links} links in the archives were left out")
    return notes


def joined(arrays: list[pa.Array]) -> pa.ChunkedArray:
    return pa.chunked_array(arrays, pa.string())
