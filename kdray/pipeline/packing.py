"""The first stage of an experiment with `data.pack`: shards that are not there yet are made of their source, once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from kdray.data.dataset import about
from kdray.data.manifest import read_manifest
from kdray.errors import DataError, InputError
from kdray.experiment import Comparison, Data, Pack
from kdray.pipeline.pack_wording import for_experiments
from kdray.store import Store

if TYPE_CHECKING:
    from rich.console import Console

    from kdray.data.layout import Manifest
    from kdray.data.pack.collection import Collection
    from kdray.data.pack.options import PackOptions

Split = Literal["train", "test"]
SAME_SPLITS = {"training": "train", "testing": "test"}
TEST_SPLITS = ("test", "val", "validation", "valid")  # the first that a source has is what is tested on
OTHER_FOLDER = (
    "Name another folder, remove what is there to have it packed anew, or remove data.pack to use it as it is"
)
LOOKED_AT = 100_000  # images: listing so many files again takes about a second, a million may take minutes


@dataclass(frozen=True)
class Goal:
    """Shards that an experiment wants made: `split` from `source` at `dest`."""

    split: Split
    source: str
    dest: str
    pack: Pack

    @property
    def key(self) -> str:
        """The key of the experiment that names the source, for errors."""
        return "data.pack.source" if self.pack.source is not None else f"data.pack.{self.split}"

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits of a source that will do."""
        return TEST_SPLITS if self.split == "test" else ("train",)

    def packed(self) -> bool:
        """Whether the shards are there, as they are asked for; `check_source` looks at what they were made of.

        Raises:
            DataError: others are there: of another kind or split, or made in another way than this experiment says.
        """
        if not Store(self.dest).exists("manifest.json"):
            return False
        manifest = self._manifest()
        packing = manifest.packing
        if packing is None:
            raise self._refused("holds shards that data.pack did not make")
        asked = options_of(self)
        names = ("order", "short_side", "quality", "small") if asked.short_side is not None else ("order", "short_side")
        wanted = {name: getattr(asked, name) for name in names}
        if self.pack.kind is not None:
            wanted["kind"] = self.pack.kind
        for name, value in wanted.items():
            has = getattr(packing, name)
            if has != value:
                raise self._refused(f"was packed with {name} {_said(has)}, and this experiment wants {_said(value)}")
        if asked.mean_std and manifest.mean is None:
            raise self._refused("was packed without mean_std, and this experiment wants it")
        split = manifest.shards[0].name.rpartition("-of-")[0].rpartition("-")[0]
        if (
            self.pack.source is not None and _plain(split) not in self.splits
        ):  # a source for one split may call it anything
            problem = f"holds the split {split!r}, and this experiment wants {' or '.join(self.splits)}"
            raise self._refused(problem)
        return True

    def notes(self) -> list[str]:
        """What is to be said of shards that are there: that they are cut otherwise than asked for, or that their source
        was not looked at.

        Raises:
            DataError: the shards were made of something else.
        """
        found = (self.check_sizes(), self.check_source())
        return [note for note in found if note is not None]

    def check_sizes(self) -> str | None:
        """A line where shards or row groups are of another size than asked for, which changes no image."""
        packing = self._manifest().packing
        has = {name: getattr(packing, name, None) for name in ("shard_bytes", "row_group_rows")}
        asked = {name: getattr(self.pack, name) for name, value in has.items() if value is not None}
        others = [f"{name} {has[name]}, not {wanted}" for name, wanted in asked.items() if has[name] != wanted]
        if not others:
            return None
        return f"data.{self.split}: shards at {self.dest} have {' and '.join(others)}, and are taken as they are"

    def check_source(self) -> str | None:
        """Compare shards that are there with the source where that is cheap; else a line that says it was not done.

        Only local class folders are listed again, and not for more than `LOOKED_AT` images.

        Raises:
            DataError: the shards were made of something else.
        """
        from kdray.store.place import parse

        manifest, place = self._manifest(), parse(self.source)
        images = manifest.num_samples + len(manifest.bad)
        kind = None if manifest.packing is None else manifest.packing.kind
        taken = f"data.{self.split}: shards at {self.dest} are taken as they are; {self.key} was not looked at"
        if kind != "imagefolder" or images > LOOKED_AT or place.scheme != "local" or not os.path.isdir(place.path):
            return taken
        try:
            with _opened([self]) as (collection,):
                listed = collection.fingerprint
        except InputError as error:  # an empty mount point, say: what is packed does not need it
            return f"{taken}: {error.problem}"
        if manifest.packing is not None and listed != manifest.packing.source:
            raise self._refused(f"was packed from another source than {self.source}, or that has changed since")
        return None

    def _manifest(self) -> Manifest:
        with about(f"data.{self.split}"):
            return read_manifest(self.dest)

    def _refused(self, problem: str) -> DataError:
        return DataError(problem, where=f"data.{self.split} {self.dest}", fix=OTHER_FOLDER)


def goals(data: Data) -> list[Goal]:
    """What `data` wants packed, whether or not it is there."""
    if data.pack is None:
        return []
    wanted: tuple[tuple[Split, str | None], ...] = (("train", data.train), ("test", data.test))
    return [
        Goal(split, source, dest, data.pack)
        for split, dest in wanted
        if dest is not None and (source := data.pack.source_of(split)) is not None
    ]


def unpacked(data: Data) -> list[Goal]:
    """What `data` wants packed and is not.

    Raises:
        DataError: something else is at the destination.
        StoreError: the storage does not answer.
    """
    return [goal for goal in goals(data) if not goal.packed()]


def wanted_of(comparison: Comparison) -> list[Goal]:
    """What the experiments want packed, each once, whether or not it is there.

    Raises:
        DataError: two experiments want different shards in one place.
    """
    found: dict[str, Goal] = {}
    for experiment in comparison.experiments.values():
        for goal in goals(experiment.data):
            other = found.setdefault(Store(goal.dest).uri, goal)
            if (other.source, other.split, other.pack) != (goal.source, goal.split, goal.pack):
                problem = "two variants want different shards in this folder"
                raise DataError(problem, where=f"data.{goal.split} {goal.dest}", fix="Give each a folder of its own")
    return list(found.values())


def pack_missing(comparison: Comparison, connected: Callable[[], None], console: Console) -> None:
    """Pack what is missing on the experiment's own cluster, or in this process where it has no workers.

    Raises:
        InputError: a source that is not there or not known, too many bad images, a destination that is taken.
    """
    there: list[Goal] = []
    wanted: list[Goal] = []
    for goal in wanted_of(comparison):
        (there if goal.packed() else wanted).append(goal)
    for goal in there:
        for note in goal.notes():
            console.print(note, highlight=False, markup=False, soft_wrap=True)
    if not wanted:
        return
    from kdray.data.pack.execute import pack
    from kdray.data.pack.progress import showing

    on_ray = comparison.cluster.workers > 0
    if on_ray:
        connected()
    for together in _by_source(wanted):
        with _opened(together) as collections:
            for goal, collection in zip(together, collections, strict=True):
                text = f"packing {collection.kind} {collection.uri}"
                console.print(text, style="bold", highlight=False, markup=False, soft_wrap=True)
                for note in collection.notes:
                    console.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)
                with showing(console) as progress, about(f"data.{goal.split}"), for_experiments():
                    pack(collection, goal.dest, options_of(goal), workers=None if on_ray else 0, progress=progress)


class Listed(NamedTuple):
    """What a dry run learns of a source without packing it."""

    images: int
    classes: int


def listed(wanted: Sequence[Goal]) -> dict[Split, Listed]:
    """Images and classes of what `wanted`, one goal a split, would pack.

    Raises:
        InputError: as `pack_missing`, as far as a listing tells.
    """
    sizes: dict[Split, Listed] = {}
    for together in _by_source(wanted):
        with _opened(together) as collections:
            for goal, collection in zip(together, collections, strict=True):
                sizes[goal.split] = Listed(collection.items.num_rows, collection.num_classes)
    return {goal.split: sizes[goal.split] for goal in wanted}


def options_of(goal: Goal) -> PackOptions:
    """What `data.pack` means for one split, as options of `kdray shard`.

    Only what is trained on is re-encoded: accuracies are of the test images as they are. And only its mean and std
    are used.
    """
    from kdray.data.pack.options import PackOptions

    pack = goal.pack
    return PackOptions(
        short_side=pack.short_side if goal.split == "train" else None,
        quality=pack.quality,
        small=pack.small,
        shard_bytes=pack.shard_bytes,
        row_group_rows=pack.row_group_rows,
        order=pack.order,
        max_bad=pack.max_bad_fraction,
        mean_std=pack.mean_std and goal.split == "train",
    )


def _by_source(wanted: Sequence[Goal]) -> list[list[Goal]]:
    """Goals that one listing serves, together: listing, or unpacking an archive, may take minutes."""
    found: dict[tuple[str, str | None], list[Goal]] = {}
    for goal in wanted:
        found.setdefault((goal.source, goal.pack.kind), []).append(goal)
    return list(found.values())


@contextmanager
def _opened(together: Sequence[Goal]) -> Iterator[list[Collection]]:
    """The splits of their one source that the goals are about."""
    from kdray.data.pack.collection import open_collections

    with ExitStack() as stack:
        with about(together[0].key), for_experiments():
            found = stack.enter_context(open_collections(together[0].source, kind=together[0].pack.kind))
        chosen = []
        for goal in together:
            with about(goal.key):
                chosen.append(_chosen(goal, found))
        yield chosen


def _chosen(goal: Goal, collections: list[Collection]) -> Collection:
    if len(collections) == 1 and goal.pack.source is None:
        return collections[0]
    by_name = {_plain(collection.split): collection for collection in collections if collection.has_splits}
    for name in goal.splits:
        if name in by_name:
            return by_name[name]
    has = f"has {', '.join(sorted(by_name))}" if by_name else "has no splits"
    fix = "Write pack: {train: URI, test: URI}, one source for each"
    raise DataError(f"{has}, and no {' or '.join(goal.splits)} to pack", where=goal.source, fix=fix)


def _plain(split: str) -> str:
    """A split's name as `Goal.splits` has it: a source may say Training/ and Test/."""
    return SAME_SPLITS.get(split.lower(), split.lower())


def _said(value: object) -> str:
    return "none" if value is None else str(value)
