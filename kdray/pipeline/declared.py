"""A dry run's stand-in for data that cannot be reached from where it runs: what the experiment declares of it."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from kdray.data.augment import output_size
from kdray.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset, Split, training_split
from kdray.data.manifest import Manifest, ShardInfo
from kdray.data.sources import builtin_facts
from kdray.errors import InputError, StoreError
from kdray.experiment import Data
from kdray.store.place import parse


def declared_dataset(data: Data) -> Dataset | None:
    """A Dataset of the declared sizes without any shards behind it; None when too little is declared.

    Needs a built-in source, or `data.classes`, `data.samples` and transforms that fix the image size.
    """
    train: int | None
    classes: int | None
    size: int | None
    if data.source not in (None, "shards"):
        facts = builtin_facts(data.source)
        train, test, classes, size, mean, std = facts
    else:
        train, test, classes, size = data.samples, 0, data.classes, None
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    image_size = output_size(data.eval_transform, (size, size) if size else None)
    if train is None or classes is None or image_size is None:
        return None
    held_out = int(train * data.validation)
    known = train - held_out
    labels = np.arange(known, dtype=np.int64) % classes
    rows = _split("train", known, classes, None)
    trained = training_split(data, rows.manifest, rows.rows, labels, rows.rows)
    return Dataset(
        num_classes=classes,
        class_names=None,
        mean=data.mean or mean,
        std=data.std or std,
        image_size=image_size,
        train=replace(trained, labels_changed=None),  # a guess says nothing of how many the noise leaves as they are
        validation=_split("train", held_out, classes, data.limit) if held_out else None,
        test=_split("test", test, classes, data.test_limit),
        labels=labels,
        train_size=output_size(data.augment, (size, size) if size else None, "data.augment", data.views),
    )


def lies_elsewhere(data: Data, error: InputError) -> bool:
    """Whether `error` only says that data cannot be reached from here: storage that refuses or does not answer, or a
    path of another machine. What can be read and is wrong is wrong there too.
    """
    if isinstance(error, StoreError):
        return any("://" in uri for uri in (data.train, data.test) if uri)
    return data.samples is not None and any(_is_absent(uri) for uri in (data.train, data.test) if uri)


def _is_absent(uri: str) -> bool:
    place = parse(uri)
    return place.scheme == "local" and not os.path.exists(os.path.dirname(place.path) if "*" in uri else place.path)


def _split(name: str, rows: int, classes: int, limit: int | None) -> Split:
    shard = ShardInfo(name=f"declared-{name}", rows=rows, bytes=0, row_groups=(rows,))
    manifest = Manifest.declared(shard, num_classes=classes)
    return Split(manifest, np.arange(rows, dtype=np.int64)[:limit])
