"""What `kdray data show` looks at: some rows of a set of shards, and what is done to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from kdray.data.augment import build_augment, build_transform
from kdray.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Split
from kdray.data.layout import Manifest, Triple
from kdray.experiment import Data, Part
from kdray.experiment.explain import Place, explain, problems
from kdray.experiment.yaml_text import parse


@dataclass(frozen=True)
class Wish:
    """The options of the command that say what is looked at, unlike the file."""

    sets: Sequence[str] = ()
    split: str | None = None
    variants: Sequence[str] | None = None
    augment: str | None = None  # YAML text
    views: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Way:
    """How training sees images: `data.augment` in `data.views` views, mixed as `data.mix` says. `name` says which
    stages do, "" for all; `batch` is their global batch where an experiment says it, over `world` workers.
    """

    name: str
    data: Data
    batch: int | None = None
    world: int = 1

    @property
    def key(self) -> str:
        """What its transforms are called in messages."""
        return f"data.augment ({self.name})" if self.name else "data.augment"


@dataclass(frozen=True)
class Subject:
    """Some rows of a set of shards, and all that is done to them.

    `stored` and `ids` int64 [N] are the labels and ids of all rows of the manifest; `trained` int64 [N] the labels that
    training is given. `split` is None where a URI was named. `mean_from` says where `mean` and `std` come from.
    """

    name: str
    split: str | None
    part: Split
    data: Data
    class_names: tuple[str, ...] | None
    num_classes: int
    mean: Triple
    std: Triple
    mean_from: str
    stored: np.ndarray
    ids: np.ndarray
    ways: tuple[Way, ...]
    seed: int

    @property
    def manifest(self) -> Manifest:
        return self.part.manifest

    @property
    def trained(self) -> np.ndarray:
        """The labels as training sees them, int64 [N]."""
        return self.stored if self.part.relabelled is None else self.part.relabelled

    @property
    def file_name(self) -> str:
        """Begin of the name of what is written about it."""
        whole = self.name if self.split in (None, "train") else f"{self.name}-{self.split}"
        return "".join(c if c.isalnum() or c in "._-" else "-" for c in whole).strip(".-") or "data"

    def class_name(self, label: int) -> str:
        """Name of the class `label`; its number where classes have no names."""
        return self.class_names[label] if self.class_names and label < len(self.class_names) else f"class {label}"


def changed(data: Data, wish: Wish) -> Data:
    """`data` under --augment and --views."""
    more: dict[str, Any] = {}
    if wish.augment is not None:
        more["augment"] = parse(wish.augment, "--augment", has_lines=False).value
    if wish.views is not None:
        more["views"] = wish.views
    if not more:
        return data
    return validated(data.model_dump(mode="json") | more, lambda path: f"--{path[1]}" if path[1:] else "--augment")


class _Section(Part):
    """A file that has nothing but its data section."""

    data: Data


def validated(values: Any, place: Place) -> Data:
    try:
        return _Section.model_validate({"data": values}).data
    except ValidationError as error:
        raise explain(problems(error), place) from None


def check(data: Data) -> None:
    """Raise ConfigError for transforms that do not exist, before anything is read."""
    build_augment(data.augment, views=data.views)
    build_transform(data.eval_transform)


def normalisation(data: Data, manifest: Manifest) -> tuple[Triple, Triple, str]:
    if data.mean is not None and data.std is not None:
        return data.mean, data.std, "data.mean and data.std"
    if manifest.mean is not None and manifest.std is not None:
        return manifest.mean, manifest.std, "noted beside the shards"
    return IMAGENET_MEAN, IMAGENET_STD, "ImageNet's: the set notes none"
