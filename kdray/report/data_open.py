"""What is named on the command line, found: a set of shards by its URI, or an experiment's data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from kdray.data.dataset import training_split
from kdray.data.manifest import read_manifest
from kdray.data.manifest_json import MANIFEST
from kdray.data.order import split_rows
from kdray.data.reader import read_labels
from kdray.errors import ConfigError, DataError, KdrayError
from kdray.experiment import Data, load_comparison
from kdray.experiment.sets import Set, in_order
from kdray.pipeline.naming import in_file
from kdray.report.data_experiment import of_experiment
from kdray.report.data_subject import Subject, Way, Wish, changed, check, normalisation, validated
from kdray.store import Store
from kdray.store.place import parse as parse_place

MOST_BELOW = 20  # folders that are looked into for sets


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
        return _of_uri(target, wish) if comparison is None else of_experiment(comparison, wish)
    except KdrayError as error:
        if wish.augment is not None and (error.where or "").startswith("data.augment"):
            raise type(error)(error.problem, where=f"--augment: {error.where}", fix=error.fix) from error
        raise error if comparison is None else in_file(error, target, wish.sets) from error


def _of_uri(uri: str, wish: Wish) -> Subject:
    if wish.variants is not None:
        raise ConfigError("a set of shards has no variants", where="--variant", fix="Name an experiment's YAML file")
    uri = _of_split(uri, wish.split) if wish.split else uri
    data = changed(_uri_data(uri, wish.sets), wish)
    check(data)
    try:
        manifest = read_manifest(uri, data.columns, data.classes)
    except DataError as error:
        splits = _sets_below(uri) if wish.split is None else []
        if not splits:
            raise
        fix = f"Add --split {splits[0]}" + "".join(f", or --split {name}" for name in splits[1:])
        raise DataError("holds no shards itself, but sets below", where=error.where, fix=fix) from error
    labels, ids = read_labels(manifest)
    mean, std, mean_from = normalisation(data, manifest)
    return Subject(
        name=_name_of(manifest.uri),
        split=None,
        part=training_split(data, manifest, split_rows(ids, data.validation)[0], labels, ids),
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
    names = store.list()
    if any(name.endswith(".parquet") for name in names):
        return []  # something else is wrong with these
    return [name for name in names[:MOST_BELOW] if store.exists(f"{name}/{MANIFEST}")]


def _uri_data(uri: str, sets: Sequence[str]) -> Data:
    """The data section of an experiment on `uri`, where only --set says more."""
    tree: dict[str, Any] = {"data": {"train": uri, "validation": 0.0}}
    changes = in_order([Set(text) for text in sets])
    for change in changes:
        if change.parts[0] != "data":
            raise ConfigError(
                "a set of shards has data keys only", where=change.source, fix="Write --set data.KEY=VALUE"
            )
        if change.parts[:2] == ["data", "train"]:
            raise ConfigError(f"{uri} is looked at", where=change.source, fix="Name the other set in its place")
        tree = change.apply(tree)

    def place(path: tuple[str | int, ...]) -> str:
        given = (c.source for c in reversed(changes) if c.gives(path) or c.keys[: len(path)] == path)
        return next(given, "--set")

    return validated(tree["data"], place)


def _name_of(uri: str) -> str:
    """A short name for the set at `uri`: its folder, with what is above a folder that is called as a split."""
    path = PurePosixPath(parse_place(uri).path)
    parts = [part for part in path.parts if part != "/"]
    last = parts[-1].removesuffix(".parquet").translate(str.maketrans("", "", "*?[]")).strip("-_.") if parts else "data"
    split = last in ("train", "val", "valid", "validation", "test") or last != parts[-1]
    return "-".join(part for part in (*parts[-2:-1], last) if part) if split else last
