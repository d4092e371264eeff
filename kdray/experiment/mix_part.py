"""`data.mix` of an experiment file: which training batches are mixed images, and how."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from kdray.experiment.bounds import Positive, Unit
from kdray.experiment.part import Part, refuse


class Mix(Part):
    """Batches of mixed images: every image with another of its batch, in training only.

    `mixup` and `cutmix` are the parameters a of the Beta(a, a) that the share of each image is drawn from: once for a
    batch. Where both are given, `cutmix_share` of the mixed batches are CutMix. `p` is how many batches are mixed.
    """

    mixup: Positive | None = None
    cutmix: Positive | None = None
    p: Unit = 1.0
    cutmix_share: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @model_validator(mode="after")
    def _something_to_draw(self) -> Mix:
        if self.p and self.mixup is None and self.cutmix is None:
            raise refuse("names no way to mix", "Write {mixup: 0.2}, {cutmix: 1.0} or both; or false for none")
        if self.cutmix_share != 0.5 and (self.mixup is None or self.cutmix is None):
            problem = (
                f"cutmix_share {self.cutmix_share:g} divides batches between mixup and cutmix, and one is not given"
            )
            raise refuse(problem, "Remove it, or give both", ("cutmix_share",))
        return self

    def in_words(self) -> str:
        """What is done, for people: `mixup Beta(0.2) or CutMix Beta(1) (0.5 of them), in 0.8 of all batches`."""
        kinds = [] if self.mixup is None else [f"mixup Beta({self.mixup:g})"]
        kinds += [] if self.cutmix is None else [f"CutMix Beta({self.cutmix:g})"]
        share = f" ({self.cutmix_share:g} of them)" if len(kinds) == 2 else ""
        return f"{' or '.join(kinds)}{share}, in {'every batch' if self.p == 1 else f'{self.p:g} of all batches'}"


def false_is_off(mix: Any) -> Any:
    """`mix: false`, as the batches of which none is mixed."""
    return {"p": 0} if mix is False else mix


def none_where_off(mix: Mix | None) -> Mix | None:
    """None for a `mix` that mixes no batch: one meaning, one digest."""
    return mix if mix is not None and mix.p else None
