"""What `data.source` names: built-in sets, packed into shards once, or shards that are there.

`digits` comes with scikit-learn, `cifar10` and `cifar100` from their official archives in `data.root`. A set is packed
whole or not at all, so two processes may start at once, and later runs find the shards.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

from kdray.errors import DataError, StoreError, nearest
from kdray.store import Store

if TYPE_CHECKING:
    from kdray.experiment import Data

MIB = 1 << 20
Split = Literal["train", "test"]


class Facts(NamedTuple):
    """A built-in set without touching it: images, classes, side in pixels, mean and std per channel of 0..1."""

    train: int
    test: int
    classes: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_FACTS = {
    "digits": Facts(1438, 359, 10, 32, (0.3049, 0.3049, 0.3049), (0.3230, 0.3230, 0.3230)),
    "cifar10": Facts(50000, 10000, 10, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Facts(50000, 10000, 100, 32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
SOURCES = tuple(_FACTS)


def builtin_facts(source: str) -> Facts:
    """What is known of a built-in set beforehand; raises `DataError` for another name."""
    if source not in _FACTS:
        hint = nearest(source, SOURCES)
        fix = f"Use one of {', '.join(SOURCES)}, or shards"
        raise DataError(f"{source!r} is no built-in set{hint}", where="data.source", fix=fix)
    return _FACTS[source]


def resolve_source(data: Data, split: Split) -> str | None:
    """The URI of the shards of `split`; None when shards are named without this split.

    A built-in set that is not there as shards is packed first, both splits at once: CIFAR takes about half a minute.

    Raises:
        DataError: the archive is not there and cannot be fetched, or is damaged.
        StoreError: no space or no permission in `data.root`.
    """
    if data.source in (None, "shards"):
        return data.train if split == "train" else data.test
    source = str(data.source)
    builtin_facts(source)
    root = _root(data)
    home = _home(root, source)
    if not _packed(home):
        try:
            _pack(source, root, home)
        except StoreError as exc:
            fix = f"{exc.fix or 'It cannot be packed there'}; data.root says where"
            raise StoreError(exc.problem, where=exc.where, fix=fix) from exc
    return home.path_uri(split)


def is_packed(data: Data) -> bool:
    """Whether the shards of a built-in set are there, so that `resolve_source` only names them."""
    return data.source not in (None, "shards") and _packed(_home(_root(data), str(data.source)))


def is_present(data: Data) -> bool:
    """Whether a built-in set needs no download: packed already, its archive in `data.root`, or part of a library."""
    if data.source in (None, "shards"):
        return False
    source = str(data.source)
    builtin_facts(source)
    if source == "digits" or _packed(_home(_root(data), source)):
        return True
    from kdray.data.cifar import has_archive

    return has_archive(source, _root(data))


def _root(data: Data) -> str:
    return data.root or os.path.join(os.getcwd(), "data")


def _home(root: str, source: str) -> Store:
    return Store(root).sub(f"kdray-{source}")


def _packed(home: Store) -> bool:
    return all(home.exists(f"{split}/manifest.json") for split in ("train", "test"))


def _pack(source: str, root: str, home: Store) -> None:
    # Imported here: a plan of shards that are there needs no decoder and no torchvision.
    from kdray.data.digits import digit_samples
    from kdray.data.writer import Sample, write_shards

    facts = builtin_facts(source)
    Store(root).check_writable()  # before a download of minutes, not after it

    def write(split: str, names: list[str], samples: Iterable[Sample]) -> None:
        write_shards(
            samples,
            home.path_uri(split),
            class_names=names,
            shard_bytes=16 * MIB,
            row_group_rows=256,  # images of 2 kB: half a megabyte to read for one of them
            mean=facts.mean,
            std=facts.std,
            split=split,
        )

    if source == "digits":
        for split in ("train", "test"):
            write(split, [str(digit) for digit in range(10)], digit_samples(split))
        return
    from kdray.data.cifar import cifar_samples, unpacked

    with unpacked(source, root) as folder:
        for split in ("train", "test"):
            write(split, *cifar_samples(source, split, folder))
