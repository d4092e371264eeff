"""A dry run's stand-in for data that cannot be reached from where it runs: what the experiment declares of it."""

from __future__ import annotations

import numpy as np

from kdray.data.augment import output_size
from kdray.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset, Split
from kdray.data.manifest import Manifest, ShardInfo
from kdray.data.sources import builtin_facts
from kdray.experiment import Data


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
        train, test, classes, size = data.samples, 1, data.classes, None
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    image_size = output_size(data.eval_transform, (size, size) if size else None)
    if train is None or classes is None or image_size is None:
        return None
    held_out = int(train * data.validation)
    return Dataset(
        num_classes=classes,
        class_names=None,
        mean=data.mean or mean,
        std=data.std or std,
        image_size=image_size,
        train=_split("train", train - held_out, classes, data.limit),
        validation=_split("train", held_out, classes, data.limit) if held_out else None,
        test=_split("test", test, classes, data.test_limit),
        labels=np.arange(train - held_out, dtype=np.int64) % classes,
    )


def _split(name: str, rows: int, classes: int, limit: int | None) -> Split:
    shard = ShardInfo(name=f"declared-{name}", rows=rows, bytes=0, row_groups=(rows,))
    manifest = Manifest.declared(shard, num_classes=classes)
    return Split(manifest, np.arange(rows, dtype=np.int64)[:limit])
