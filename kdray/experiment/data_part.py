"""`data:` of an experiment file: where the samples lie, how they are read, what is done to pixels and labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kdray.experiment.bounds import BelowOne, Count, Mean, Natural, Std, Text, Unit, Uri
from kdray.experiment.freeform import Transforms
from kdray.experiment.mix_part import Mix, false_is_off, none_where_off
from kdray.experiment.pack_part import Pack
from kdray.experiment.part import OPERATIONAL, Part, both_or_none, refuse


def _shards_is_none(source: str | None) -> str | None:
    return None if source == "shards" else source  # one meaning, one digest


class Columns(Part):
    """Names of the Parquet columns. Without `id`, a sample is known by its shard and row."""

    image: Text = "image"
    label: Text = "label"
    id: Text | None = None


class LabelNoise(Part):
    """Wrong labels on `fraction` of the training rows, drawn from `seed` and the sample ids.

    permute exchanges the labels of these rows among themselves; uniform gives another class at random, pair the next.
    """

    fraction: Unit
    type: Literal["permute", "uniform", "pair"] = "permute"
    seed: Natural = 0


def _none_where_zero(noise: LabelNoise | None) -> LabelNoise | None:
    return noise if noise is not None and noise.fraction else None  # one meaning, one digest


def _has_a_goal(data: Data, pack: Pack) -> None:
    if data.source is not None:
        raise refuse(f"source {data.source} is packed by itself", "Remove pack, or write source: shards", ("pack",))
    for split, goal in (("train", data.train), ("test", data.test)):
        if goal is None and getattr(pack, split) is not None:
            raise refuse(f"packs {split}, which data does not name", f"Add data.{split}: URI", ("pack", split))
        if goal is not None and any(mark in goal.rpartition("/")[2] for mark in "*?["):
            raise refuse("packs into a folder, not into a pattern", f"Name the folder in data.{split}", (split,), goal)


class Data(Part):
    """Where the samples lie, how they are read, and what is done to their pixels.

    `source` None (or shards, the same) means shards at the `train` and `test` URIs. `validation` is the fraction of
    train held out by a hash of the sample id; of what is left, training takes `fraction` of every class, by a hash of
    the sample id and `fraction_seed`, and may be given wrong labels by `label_noise`. `mix` mixes images in training.
    `limit` keeps the first rows of train and of validation, `test_limit` of test. `mean` and `std` are per RGB
    channel, of pixels in 0..1. `samples` declares the train size for a plan made where the data cannot be reached.
    `engine` is what streams on Ray: kdray's own actors, or Ray Data. `pack` says what the shards at `train` and `test`
    are made of, where they are not there yet.
    """

    source: Annotated[Literal["digits", "cifar10", "cifar100", "shards"] | None, AfterValidator(_shards_is_none)] = None
    train: Uri | None = None
    test: Uri | None = None
    root: Text | None = Field(default=None, json_schema_extra=OPERATIONAL)
    pack: Pack | None = Field(default=None, json_schema_extra=OPERATIONAL)
    columns: Columns = Field(default_factory=Columns)
    classes: Count | None = None
    samples: Count | None = Field(default=None, json_schema_extra=OPERATIONAL)
    mode: Literal["auto", "stream", "resident"] = Field(default="auto", json_schema_extra=OPERATIONAL)
    engine: Literal["actors", "ray_data"] = Field(default="actors", json_schema_extra=OPERATIONAL)
    resident_limit_bytes: Natural = Field(default=2 * 1024**3, json_schema_extra=OPERATIONAL)
    augment: Transforms = Field(default_factory=list)
    eval_transform: Transforms = Field(default_factory=list)
    views: Count = 1
    validation: BelowOne = 0.1
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    fraction_seed: Natural = 0
    label_noise: Annotated[LabelNoise | None, AfterValidator(_none_where_zero)] = None
    mix: Annotated[Mix | None, BeforeValidator(false_is_off), AfterValidator(none_where_off)] = None
    limit: Count | None = None
    test_limit: Count | None = None
    mean: Mean | None = None
    std: Std | None = None
    shuffle_window_bytes: Count = 256 * 1024**2
    max_bad_fraction: Unit = Field(default=0.001, json_schema_extra=OPERATIONAL)

    @model_validator(mode="after")
    def _one_origin(self) -> Data:
        packed = self.source is not None
        if not packed and self.train is None:
            fix = "Give source: digits, cifar10 or cifar100, or train: the folder or URI of Parquet shards"
            at = ("source",) if "source" in self.model_fields_set else ()
            raise refuse("names no training data", fix, at)
        for key in ("train", "test"):
            if packed and getattr(self, key) is not None:
                problem = f"source {self.source} brings its own {key} set, so {getattr(self, key)} would do nothing"
                raise refuse(problem, f"Remove {key}, or write source: shards", (key,))
        both_or_none(self)
        if self.pack is not None:
            _has_a_goal(self, self.pack)
        return self
