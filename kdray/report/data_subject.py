"""What `kdray data show` looks at: a set of shards by its URI, or the data section of an experiment's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from pydantic import ValidationError

from kdray.data.augment import build_augment, build_transform
from kdray.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Split, open_dataset
from kdray.data.layout import Manifest, Triple
from kdray.data.manifest import read_manifest
from kdray.data.manifest_json import MANIFEST
from kdray.data.reader import read_labels
from kdray.errors import ConfigError, DataError, KdrayError, nearest
from kdray.experiment import Comparison, Data, Experiment, Part, Train, load_comparison
from kdray.experiment.explain import Place, explain, problems
from kdray.experiment.sets import Set, in_order
from kdray.experiment.yaml_text import parse
from kdray.pipeline.naming import in_file
from kdray.pipeline.packing import unpacked
from kdray.store import Store
from kdray.store.place import parse as parse_place

SPLITS = ("train", "validation", "test")
MOST_BELOW = 20  # folders that are looked into for sets
SEVERAL = 4  # names of variants that are told one by one
_WAY = ("augment", "views", "mix")  # what may differ between the rows that stages of one experiment train on


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


def is_experiment(target: str) -> bool:
    """Whether `target` names an experiment's file."""
    return target.lower().endswith((".yaml", ".yml"))


def open_subject(target: str, wish: Wish) -> Subject:
    """Find the data that `target` names, a URI or an experiment's YAML file.

    Raises:
        ConfigError: options or keys that are wrong.
        DataError, StoreError: shards that are not there or do not read.
    """
    comparison = load_comparison(target, wish.sets, wish.variants) if is_experiment(target) else None
    try:
        return _of_uri(target, wish) if comparison is None else _of_experiment(comparison, wish)
    except KdrayError as error:
        if wish.augment is not None and (error.where or "").startswith("data.augment"):
            raise type(error)(error.problem, where=f"--augment: {error.where}", fix=error.fix) from error
        raise error if comparison is None else in_file(error, target, wish.sets) from error


def _of_uri(uri: str, wish: Wish) -> Subject:
    if wish.variants is not None:
        raise ConfigError("a set of shards has no variants", where="--variant", fix="Name an experiment's YAML file")
    uri = _of_split(uri, wish.split) if wish.split else uri
    data = _changed(_uri_data(uri, wish.sets), wish)
    _check(data)
    try:
        manifest = read_manifest(uri, data.columns, data.classes)
    except DataError as error:
        splits = _sets_below(uri) if wish.split is None else []
        if not splits:
            raise
        fix = f"Add --split {splits[0]}" + "".join(f", or --split {name}" for name in splits[1:])
        raise DataError("holds no shards itself, but sets below", where=error.where, fix=fix) from error
    labels, ids = read_labels(manifest)
    rows = np.arange(manifest.num_samples, dtype=np.int64)[: data.limit]
    mean, std, mean_from = _normalisation(data, manifest)
    return Subject(
        name=_name_of(manifest.uri),
        split=None,
        part=Split(manifest, rows),
        data=data,
        class_names=manifest.class_names,
        num_classes=manifest.num_classes,
        mean=mean,
        std=std,
        mean_from=mean_from,
        stored=labels,
        ids=ids,
        ways=(Way("", data),),
        seed=wish.seed or 0,
    )


def _of_split(uri: str, split: str) -> str:
    """The folder of `split` below `uri`, or the shards there that are called by it."""
    if any(mark in uri for mark in "*?["):
        raise ConfigError("a glob says which shards are meant", where="--split", fix="Leave one of them out")
    below = f"{uri.rstrip('/')}/{split}"
    return below if Store(uri).list(split) else f"{uri.rstrip('/')}/{split}-*.parquet"


def _sets_below(uri: str) -> list[str]:
    """Names of the folders at `uri` that hold a set that was packed, such as train and val."""
    if any(mark in uri for mark in "*?["):
        return []
    store = Store(uri)
    return [name for name in store.list()[:MOST_BELOW] if store.exists(f"{name}/{MANIFEST}")]


def _uri_data(uri: str, sets: Sequence[str]) -> Data:
    """The data section of an experiment on `uri`, where only --set says more."""
    tree: dict[str, Any] = {"data": {"train": uri, "validation": 0.0}}
    changes = in_order([Set(text) for text in sets])
    for change in changes:
        if change.parts[0] != "data":
            raise ConfigError(
                "a set of shards has data keys only", where=change.source, fix="Write --set data.KEY=VALUE"
            )
        tree = change.apply(tree)

    def place(path: tuple[str | int, ...]) -> str:
        given = (c.source for c in reversed(changes) if c.gives(path) or c.keys[: len(path)] == path)
        return next(given, "--set")

    return _data(tree["data"], place)


def _changed(data: Data, wish: Wish) -> Data:
    """`data` under --augment and --views."""
    more: dict[str, Any] = {}
    if wish.augment is not None:
        more["augment"] = parse(wish.augment, "--augment", has_lines=False).value
    if wish.views is not None:
        more["views"] = wish.views
    if not more:
        return data
    return _data(data.model_dump(mode="json") | more, lambda path: f"--{path[1]}" if path[1:] else "--augment")


class _Section(Part):
    """A file that has nothing but its data section."""

    data: Data


def _data(values: Any, place: Place) -> Data:
    try:
        return _Section.model_validate({"data": values}).data
    except ValidationError as error:
        raise explain(problems(error), place) from None


def _check(data: Data) -> None:
    """Raise ConfigError for transforms that do not exist, before anything is read."""
    build_augment(data.augment, views=data.views)
    build_transform(data.eval_transform)


def _of_experiment(comparison: Comparison, wish: Wish) -> Subject:
    split = wish.split or "train"
    if split not in SPLITS:
        problem = f"an experiment has no split {split!r}{nearest(split, SPLITS)}"
        raise ConfigError(problem, where="--split", fix=f"Name one of {', '.join(SPLITS)}")
    experiments = comparison.experiments
    data = _changed(comparison.first.data, wish)
    for variant, experiment in experiments.items():
        other = next((key for key, value in experiment.data if key not in _WAY and value != getattr(data, key)), None)
        if other is not None:
            names = ", ".join(experiments)
            problem = f"variants have different data: {other} of {variant!r} is not that of {next(iter(experiments))!r}"
            raise ConfigError(problem, where="--variant", fix=f"Name one of {names}")
    ways = _ways(experiments, wish, data)
    for way in ways:
        _check(way.data)
    waiting = unpacked(data)
    if waiting:
        raise DataError(
            f"{waiting[0].source} is not packed yet",
            where=f"data.{waiting[0].split} {waiting[0].dest}",
            fix="Run the experiment, which packs it first, or kdray shard",
        )
    dataset = open_dataset(ways[0].data)
    part = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}[split]
    if part is None:
        fix = "Set data.validation above 0" if split == "validation" else "Name its shards in data.test"
        raise DataError(f"the experiment has no {split} images", where="--split", fix=fix)
    stored, ids = read_labels(part.manifest)
    mean, std, mean_from = _normalisation(data, dataset.train.manifest if dataset.train is not None else part.manifest)
    return Subject(
        name=comparison.name,
        split=split,
        part=part,
        data=ways[0].data,
        class_names=dataset.class_names,
        num_classes=dataset.num_classes,
        mean=mean,
        std=std,
        mean_from=mean_from,
        stored=stored,
        ids=ids,
        ways=ways if split == "train" else (),
        seed=comparison.first.seed if wish.seed is None else wish.seed,
    )


def _ways(experiments: Mapping[str, Experiment], wish: Wish, data: Data) -> tuple[Way, ...]:
    """Each way in which a stage of one of `experiments` sees training images, once, with the names of these stages."""
    first = next(iter(experiments.values()))
    world = max(1, first.cluster.workers)
    if wish.augment is not None or wish.views is not None:
        return (Way("", data, first.train.batch, world),)
    found: dict[str, tuple[list[str], Way]] = {}
    for variant, experiment in experiments.items():
        for stage, seen, train in _stages(experiment):
            key = repr([getattr(seen, name) for name in _WAY])
            names = found.setdefault(key, ([], Way("", seen, train.batch, world)))[0]
            names.append(" of ".join(part for part in (stage, variant) if part))
    several = len(found) > 1
    return tuple(replace(way, name=_told(names, experiments) if several else "") for names, way in found.values())


def _stages(experiment: Experiment) -> list[tuple[str, Data, Train]]:
    """What the stages of `experiment` that train see, under "" where all see the same, and how they train."""
    teacher, seen = experiment.teacher, experiment.teacher_data
    of_teacher = (teacher.train if teacher is not None else None) or experiment.train
    if experiment.student is None:
        return [("", seen, of_teacher)]
    if teacher is None or teacher.weights is not None or seen == experiment.data:
        return [("", experiment.data, experiment.train)]
    return [("student", experiment.data, experiment.train), ("teacher", seen, of_teacher)]


def _told(names: list[str], experiments: Mapping[str, Experiment]) -> str:
    teachers = [name for name in names if name.startswith("teacher of ")]
    if len(teachers) == len(experiments) > 1:  # one for all
        names = ["teacher", *(name for name in names if name not in teachers)]
    short = [name.removeprefix("student of ") for name in names]
    more = f" and {len(short) - SEVERAL} more" if len(short) > SEVERAL + 1 else ""
    return ", ".join(short[:SEVERAL] if more else short) + more


def _normalisation(data: Data, manifest: Manifest) -> tuple[Triple, Triple, str]:
    if data.mean is not None and data.std is not None:
        return data.mean, data.std, "data.mean and data.std"
    if manifest.mean is not None and manifest.std is not None:
        return manifest.mean, manifest.std, "noted beside the shards"
    return IMAGENET_MEAN, IMAGENET_STD, "ImageNet's: the set notes none"


def _name_of(uri: str) -> str:
    """A short name for the set at `uri`: its folder, with what is above a folder that is called as a split."""
    path = PurePosixPath(parse_place(uri).path)
    parts = [part for part in path.parts if part != "/"]
    last = parts[-1].removesuffix(".parquet").translate(str.maketrans("", "", "*?[]")).strip("-_.") if parts else "data"
    split = last in ("train", "val", "valid", "validation", "test") or last != parts[-1]
    return "-".join(part for part in (*parts[-2:-1], last) if part) if split else last
