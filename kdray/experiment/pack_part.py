"""`data.pack:` of an experiment file: what the shards at `data.train` and `data.test` are made of, once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdray.experiment.bounds import Count, Text, Unit, Uri
from kdray.experiment.part import Part, refuse

MIB = 1024**2


class Pack(Part):
    """A collection of images that is packed into shards where these are not there yet, before the first stage.

    `source` holds both splits (a data set's archive, a folder with train/ and val/); `train` and `test` name one each.
    `kind` is what it is, where that cannot be told. With `short_side` larger training images are made smaller and
    saved as JPEG of `quality`; without it, and in test always, every byte stays as it is.
    `small` says what becomes of those that are small enough. `mean_std` measures the training images, for experiments
    that set no `data.mean`. The rest is as the options of `kdray shard`.
    """

    source: Uri | None = None
    train: Uri | None = None
    test: Uri | None = None
    kind: Text | None = None
    short_side: Annotated[int, Field(ge=8, le=4096)] | None = None
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    small: Literal["keep", "jpeg"] = "keep"
    shard_bytes: Annotated[int, Field(ge=1024)] = 128 * MIB
    row_group_rows: Count = 64
    order: Literal["mixed", "source"] = "mixed"
    max_bad_fraction: Unit = 0.001
    mean_std: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> Pack:
        if (self.source is None) == (self.train is None and self.test is None):
            fix = "Write source: URI where one source has both splits, else train: URI and test: URI"
            raise refuse("names no source" if self.source is None else "names its sources twice", fix)
        for name in ("quality", "small"):
            if self.short_side is None and name in self.model_fields_set:
                raise refuse(
                    f"{name} does nothing without short_side", f"Add short_side: 256, or remove {name}", (name,)
                )
        return self

    def source_of(self, split: Literal["train", "test"]) -> str | None:
        """Where `split` comes from; None where it is not packed."""
        return self.source or getattr(self, split)
