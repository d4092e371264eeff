"""`balance:` of an experiment file: weights of objectives that are set by measuring their gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from kdray.experiment.bounds import Count, Positive, Text
from kdray.experiment.part import Part, refuse


def _map_of_shares(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise refuse("wants a map from parts to shares", "Write {kd: 0.5}, or share: 0.5 for all", (), value)
    return value


class Balance(Part):
    """Weights that make each part's gradient on the student's pooled vector a share of the reference's.

    `shares` names the parts, as losses are reported: `kd`, or `clmkd.kd` for a member of a composite. `share` is one
    for all but the reference. `to` names the reference; None is the cross-entropy. `batches` is how many are looked
    at, before the first step.
    """

    share: Positive | None = None
    shares: Annotated[dict[Text, Positive], BeforeValidator(_map_of_shares)] = Field(default_factory=dict)
    to: Text | None = None
    batches: Count = 8

    @model_validator(mode="after")
    def _one_way(self) -> Balance:
        if self.share is None and not self.shares:
            raise refuse("says no share", "Write {share: 0.5} for all parts, or {shares: {kd: 0.5}}")
        if self.share is not None and self.shares:
            fix = "Keep shares with the parts that are to be balanced, or share for all"
            raise refuse("share and shares are both given", fix, ("share",))
        return self
