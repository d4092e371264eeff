"""What a set of shards is, in memory: its files, row groups, columns and classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import numpy as np

Triple = tuple[float, float, float]


class ColumnNames(Protocol):
    """What names the columns: `kdray.experiment.Columns`, or a `ShardColumns`."""

    @property
    def image(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def id(self) -> str | None: ...


@dataclass(frozen=True)
class ShardColumns:
    """Column names; `image_kind` says whether the image is plain bytes or a struct with a field `bytes`."""

    image: str = "image"
    label: str = "label"
    id: str | None = None
    image_kind: Literal["binary", "struct"] = "binary"


@dataclass(frozen=True)
class ShardInfo:
    """One file: `bytes` is its size, `row_groups` the rows in each row group."""

    name: str
    rows: int
    bytes: int
    row_groups: tuple[int, ...]


def shard_name(split: str, number: int, count: int) -> str:
    """The file name of shard `number` of `count`, as Hugging Face datasets write it."""
    return f"{split}-{number:05d}-of-{count:05d}.parquet"


@dataclass(frozen=True)
class ImageSizes:
    """Sizes in pixels: (lowest, mean, highest) height and width, and quantiles of the shorter side.

    `short_side` are pairs (quantile, pixels): that part of the images has a shorter side of at most so many pixels.
    """

    height: tuple[int, float, int]
    width: tuple[int, float, int]
    short_side: tuple[tuple[float, int], ...]


class BadFile(NamedTuple):
    """A file of the source that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Packing:
    """How a set was packed: from what kind of source (`source` is the digest of its listing), in which order, and what
    was done to the images. `short_side` None: every image is as it was; else `reencoded` of them are not, `quality` is
    their JPEG's, and `small` says what became of those that were small enough. `identity` is the digest of all that.
    Older sets do not tell `shard_bytes` and `row_group_rows`.
    """

    kind: str
    source: str
    identity: str
    kdray: str
    order: str
    source_bytes: int
    short_side: int | None = None
    quality: int | None = None
    small: str | None = None
    encoder: str | None = None
    reencoded: int = 0
    shard_bytes: int | None = None
    row_group_rows: int | None = None


class Group(NamedTuple):
    """A row group: number of its shard, its number in the shard, its first dense row, its rows."""

    shard: int
    row_group: int
    start: int
    rows: int


@dataclass(frozen=True)
class Manifest:
    """A set of shards under the folder `folder`; rows are numbered densely over the shards in their order.

    `mean` and `std` are per RGB channel of pixels in 0..1; `image_bytes` is the encoded size of all images. `sizes`,
    `bad` and `packing` are told by sets that `kdray shard` packed.
    """

    uri: str
    folder: str
    shards: tuple[ShardInfo, ...]
    columns: ShardColumns
    num_classes: int
    class_names: tuple[str, ...] | None
    mean: Triple | None
    std: Triple | None
    image_bytes: int
    fingerprint: str
    class_counts: tuple[int, ...] | None = field(default=None, repr=False)
    sizes: ImageSizes | None = field(default=None, repr=False)
    bad: tuple[BadFile, ...] = field(default=(), repr=False)
    packing: Packing | None = field(default=None, repr=False)

    @property
    def num_samples(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [S+1]: the dense number of each shard's first row, then the number of samples."""
        return np.cumsum([0, *(shard.rows for shard in self.shards)], dtype=np.int64)

    @cached_property
    def groups(self) -> np.ndarray:
        """int64 [G, 4]: every row group as (shard, row group, first dense row, rows), in row order; see `Group`."""
        sizes = [(s, g, rows) for s, shard in enumerate(self.shards) for g, rows in enumerate(shard.row_groups)]
        table = np.array(sizes, dtype=np.int64).reshape(-1, 3)
        starts = np.cumsum(table[:, 2]) - table[:, 2]
        return np.stack([table[:, 0], table[:, 1], starts, table[:, 2]], axis=1)

    def group(self, number: int) -> Group:
        """Row group `number` of all."""
        return Group(*(int(value) for value in self.groups[number]))

    def group_of(self, index: np.ndarray) -> np.ndarray:
        """Number of the row group that holds each dense row: int64 [n] -> int64 [n]."""
        return np.searchsorted(self.groups[:, 2], index, side="right") - 1

    def shard_uri(self, shard: int) -> str:
        return f"{self.folder.rstrip('/')}/{self.shards[shard].name}"

    def position(self, index: int) -> str:
        """Where a person finds dense row `index`: "train-00000-of-00005.parquet row 17"."""
        shard = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return f"{self.shards[shard].name} row {index - int(self.offsets[shard])}"

    @staticmethod
    def declared(shard: ShardInfo, *, num_classes: int) -> Manifest:
        """A manifest without files behind it, for a plan made where the data cannot be reached."""
        return Manifest(
            uri=f"declared:{shard.name}",
            folder="",
            shards=(shard,),
            columns=ShardColumns(),
            num_classes=num_classes,
            class_names=None,
            mean=None,
            std=None,
            image_bytes=shard.bytes,
            fingerprint=f"declared-{shard.name}-{shard.rows}-{num_classes}",
        )
