"""`data.pack`: what it says, what it refuses, and that it is no part of a result's name."""

from __future__ import annotations

from typing import Any

import pytest

from kdray.errors import ConfigError
from kdray.experiment import Data, Pack, digest_of, experiment_from_dict

GOALS = {"train": "shards/train", "test": "shards/test"}
TRAIN = {"epochs": 1, "batch": 8, "optimizer": {"type": "sgd", "lr": 0.1}}


def experiment(data: dict[str, Any]) -> Data:
    tree = {"name": "x", "data": data, "student": {"model": "resnet8"}, "train": TRAIN}
    return experiment_from_dict(tree | {"objectives": {"ce": {}}}).data


def test_one_source_or_one_each() -> None:
    both = experiment(GOALS | {"pack": {"source": "pictures.tar"}}).pack
    assert both is not None and both.source_of("train") == both.source_of("test") == "pictures.tar"
    each = experiment(GOALS | {"pack": {"train": "a", "test": "b", "short_side": 256, "quality": 95}}).pack
    assert each == Pack(train="a", test="b", short_side=256, quality=95)
    assert each.source_of("train") == "a" and each.source_of("test") == "b"
    only = experiment({"train": "shards", "pack": {"train": "a"}}).pack
    assert only is not None and only.source_of("test") is None


@pytest.mark.parametrize(
    ("data", "where", "said"),
    [
        (GOALS | {"pack": {}}, "data.pack", "names no source"),
        (GOALS | {"pack": {"source": "a", "train": "b"}}, "data.pack", "twice"),
        (GOALS | {"pack": {"source": "a", "quality": 90}}, "data.pack.quality", "without short_side"),
        (GOALS | {"pack": {"source": "a", "small": "jpeg"}}, "data.pack.small", "without short_side"),
        ({"train": "shards", "pack": {"test": "b"}}, "data.pack.test", "does not name"),
        ({"source": "digits", "pack": {"source": "a"}}, "data.pack", "packed by itself"),
        ({"train": "shards/train-*.parquet", "pack": {"train": "a"}}, "data.train", "a folder"),
        (GOALS | {"pack": {"source": "a", "short_sides": 256}}, "data.pack.short_sides", "short_side"),
    ],
)
def test_what_does_not_fit_is_refused(data: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment(data)
    assert caught.value.where is not None and where in caught.value.where
    assert said in str(caught.value)


def test_it_changes_no_digest() -> None:
    plain, packed = experiment(GOALS), experiment(GOALS | {"pack": {"source": "a"}})
    assert digest_of(plain) == digest_of(packed)
