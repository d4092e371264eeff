"""Sample-wise contrastive logit distillation, in the three readings of what sets it apart from the instance-wise one.

Reconstruction: the paper names the term; how it differs from the instance-wise one is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from kdray.experiment.bounds import Natural, Positive
from kdray.objectives.contract import (
    LOSS,
    Gather,
    ObjectiveConfig,
    StepInfo,
    Targets,
)
from kdray.objectives.contrast import supervised_contrast
from kdray.objectives.gather import gather_rows
from kdray.objectives.heads import unit
from kdray.objectives.mcld.queue import QueuedObjective
from kdray.objectives.mcld.rows import Inputs, Mask, Rows, as_inputs
from kdray.objectives.registry import register
from kdray.objectives.similarity import similarity_kl

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class SampleConfig(ObjectiveConfig):
    """Options of `mcld.sample`.

    - `reading`: `transposed` (teacher rows are the anchors, student rows the candidates), `multi_positive` (student
      anchors, all teacher rows of the class are positives), or `relation` (similarities between samples, kept by KL).
    - `mask`, as in `mcld.instance`; by default `exclude`, `multi_positive`, `none` in the order of the readings.
      `multi_positive` takes no other, `relation` takes `none` or `exclude`.
    - `queue`: the teacher's latest logits as further candidates of `multi_positive`, and as further samples that both
      networks' rows are related to in `relation`; 0 for none.
    - `temperature`, `inputs`, `gather`: as in `mcld.instance`.
    """

    reading: Literal["transposed", "multi_positive", "relation"] = "transposed"
    mask: Mask | None = None
    temperature: Positive = 0.1
    queue: Natural = 0
    inputs: Inputs = "logits"
    gather: Gather = "global"

    @model_validator(mode="after")
    def _fit_the_reading(self) -> SampleConfig:
        if self.reading == "transposed" and self.queue:
            raise ValueError("a queue holds teacher rows, and the candidates of reading transposed are student rows")
        if self.reading == "multi_positive" and self.mask not in (None, "multi_positive"):
            raise ValueError(f"reading multi_positive takes no mask {self.mask}; leave `mask` out")
        if self.reading == "relation" and self.mask == "multi_positive":
            raise ValueError("reading relation has no positives: its mask is none or exclude")
        return self

    @property
    def masked(self) -> Mask:
        """The mask that holds: the given one, or that of the reading."""
        if self.mask is not None:
            return self.mask
        by_reading: dict[str, Mask] = {"transposed": "exclude", "multi_positive": "multi_positive", "relation": "none"}
        return by_reading[self.reading]


@register("mcld.sample")
class Sample(QueuedObjective):
    """Teacher logits against N student logits, or one of two other readings (MCLD's sample-wise term)."""

    config = SampleConfig
    provenance = "reconstruction"
    family = "contrastive"
    source = "MCLD (arXiv 2411.10693) from CKD (transposed), SupCon (multi_positive), SEED (relation with a queue)"
    # As `mcld.instance`.
    search_space: ClassVar = {"weight": "loguniform(0.5, 10)", "temperature": "loguniform(0.05, 0.5)"}
    options: SampleConfig

    @classmethod
    def takes_mixed(cls, options: SampleConfig) -> bool:
        return options.masked == "none" and not options.queue  # masks and queue go by labels and row numbers

    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> dict[str, Tensor]:
        assert teacher is not None and student.logits is not None and teacher.logits is not None
        options = self.options
        rows = Rows.of(targets, options.gather, self.queue)
        s = as_inputs(student.logits, options.inputs)
        t = as_inputs(teacher.logits, options.inputs)
        if options.reading == "transposed":
            loss = self._contrast(t, self._everyone(s), rows)
        else:
            candidates = as_inputs(self.candidates(teacher.logits), options.inputs)
            relation = options.reading == "relation"
            loss = self._relation(s, t, candidates, rows) if relation else self._contrast(s, candidates, rows)
        self.remember(teacher.logits, targets, step)
        return {LOSS: loss}

    def _everyone(self, rows: Tensor) -> Tensor:
        return gather_rows(rows) if self.options.gather == "global" else rows

    def _contrast(self, anchors: Tensor, candidates: Tensor, rows: Rows) -> Tensor:
        positive, counted = rows.target_mask(self.options.masked)
        return supervised_contrast(unit(anchors), unit(candidates), positive, counted, self.options.temperature)

    def _relation(self, s: Tensor, t: Tensor, candidates: Tensor, rows: Rows) -> Tensor:
        """Row-softmaxes of both networks' similarities to the other rows. The queue's entries, which the teacher alone
        has logits of, stand on both sides (as in SEED, Fang et al., ICLR 2021)."""
        other = rows.usable & ~rows.itself
        if self.options.masked == "exclude":
            other = other & ~rows.same_class
        everyone = self._everyone(s)
        everyone = torch.cat([everyone, candidates[len(everyone) :]])
        return similarity_kl(s, t, everyone, candidates, self.options.temperature, other)
