"""The first stage of an experiment with `data.pack`: shards that are not there yet are made of their source, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from kdray.data.dataset import about
from kdray.data.manifest import read_manifest
from kdray.errors import DataError
from kdray.experiment import Comparison, Data, Pack
from kdray.store import Store

if TYPE_CHECKING:
    from rich.console import Console

    from kdray.data.pack.collection import Collection
    from kdray.data.pack.options import PackOptions

Split = Literal["train", "test"]
TEST_SPLITS = ("test", "val", "validation", "valid")  # the first that a source has is what is tested on
OTHER_FOLDER = "Name another folder, or remove what is there to have it packed anew"


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

    def packed(self) -> bool:
        """Whether the shards are there, as they are asked for.

        Raises:
            DataError: others are there: re-encoded in another way than this experiment says.
        """
        if not Store(self.dest).exists("manifest.json"):
            return False
        with about(f"data.{self.split}"):
            packing = read_manifest(self.dest).packing
            if packing is None:
                raise DataError("holds shards that data.pack did not make", where=self.dest, fix=OTHER_FOLDER)
        asked = options_of(self)
        names = ("order", "short_side", "quality") if asked.short_side is not None else ("order", "short_side")
        for name in names:
            has, value = getattr(packing, name), getattr(asked, name)
            if has != value:
                raise DataError(
                    f"was packed with {name} {_said(has)}, and this experiment wants {_said(value)}",
                    where=f"data.{self.split} {self.dest}",
                    fix=OTHER_FOLDER,
                )
        return True


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


def missing(comparison: Comparison) -> list[Goal]:
    """What the experiments want packed and is not, each once.

    Raises:
        DataError: something else is at the destination, or two experiments want different shards in one place.
    """
    found: dict[str, Goal] = {}
    for experiment in comparison.experiments.values():
        for goal in goals(experiment.data):
            other = found.setdefault(Store(goal.dest).uri, goal)
            if (other.source, other.split, other.pack) != (goal.source, goal.split, goal.pack):
                problem = "two variants want different shards in this folder"
                raise DataError(problem, where=f"data.{goal.split} {goal.dest}", fix="Give each a folder of its own")
    return [goal for goal in found.values() if not goal.packed()]


def pack_missing(comparison: Comparison, connected: Callable[[], None], console: Console) -> None:
    """Pack what is missing on the experiment's own cluster, or in this process where it has no workers.

    Raises:
        InputError: a source that is not there or not known, too many bad images, a destination that is taken.
    """
    wanted = missing(comparison)
    if not wanted:
        return
    from kdray.data.pack.execute import pack
    from kdray.data.pack.progress import showing

    on_ray = comparison.cluster.workers > 0
    if on_ray:
        connected()
    for goal in wanted:
        with _opened(goal) as collection:
            text = f"packing {collection.kind} {collection.uri}"
            console.print(text, style="bold", highlight=False, markup=False, soft_wrap=True)
            for note in collection.notes:
                console.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)
            with showing(console) as progress, about(f"data.{goal.split}"):
                pack(collection, goal.dest, options_of(goal), workers=None if on_ray else 0, progress=progress)


class Listed(NamedTuple):
    """What a dry run learns of a source without packing it."""

    images: int
    classes: int


def listed(goal: Goal) -> Listed:
    """Images and classes of what `goal` would pack.

    Raises:
        InputError: as `pack_missing`, as far as a listing tells.
    """
    with _opened(goal) as collection:
        labels = collection.items.column("label").to_numpy()
        names = collection.class_names
        return Listed(len(labels), len(names) if names else int(labels.max()) + 1)


def options_of(goal: Goal) -> PackOptions:
    """What `data.pack` means for one split, as options of `kdray shard`.

    Only what is trained on is re-encoded: accuracies are of the test images as they are.
    """
    from kdray.data.pack.options import PackOptions

    pack = goal.pack
    return PackOptions(
        short_side=pack.short_side if goal.split == "train" else None,
        quality=pack.quality,
        shard_bytes=pack.shard_bytes,
        row_group_rows=pack.row_group_rows,
        order=pack.order,
        max_bad=pack.max_bad_fraction,
    )


@contextmanager
def _opened(goal: Goal) -> Iterator[Collection]:
    """The split of the source that `goal` is about."""
    from kdray.data.pack.collection import open_collections

    with ExitStack() as stack:
        with about(goal.key):
            found = stack.enter_context(open_collections(goal.source, kind=goal.pack.kind))
            collection = _chosen(goal, found)
        yield collection


def _chosen(goal: Goal, collections: list[Collection]) -> Collection:
    if len(collections) == 1 and goal.pack.source is None:
        return collections[0]
    names = TEST_SPLITS if goal.split == "test" else ("train",)
    by_name = {collection.split: collection for collection in collections if collection.has_splits}
    for name in names:
        if name in by_name:
            return by_name[name]
    has = f"has {', '.join(sorted(by_name))}" if by_name else "has no splits"
    fix = "Write pack: {train: URI, test: URI}, one source for each"
    raise DataError(f"{has}, and no {' or '.join(names)} to pack", where=goal.source, fix=fix)


def _said(value: object) -> str:
    return "none" if value is None else str(value)
