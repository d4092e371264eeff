"""CKD: each image's logits in the teacher must find the same image's logits in the student among the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdray.experiment.bounds import NonNegative, Positive
from kdray.objectives.contract import LOSS, Gather, Needs, Objective, ObjectiveConfig, StepInfo, Targets
from kdray.objectives.gather import gather_rows, own_rows
from kdray.objectives.heads import unit
from kdray.objectives.registry import register
from kdray.objectives.standardise import comparable

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class CKDConfig(ObjectiveConfig):
    """`temperature` T > 0 of the cosines; `standardise` as in `kd` (the cosine is then Pearson's correlation);
    `gather`: the student's rows that a teacher's row is compared with."""

    weight: NonNegative = 100.0
    temperature: Positive = 1.0
    standardise: bool = False
    gather: Gather = "global"


def sample_contrast(anchors: Tensor, candidates: Tensor, start: int, temperature: float) -> Tensor:
    """-mean_i log softmax_j(cos(anchor_i, candidate_j) / T) at j = start + i; anchors [m, C], candidates [n, C]."""
    place = torch.arange(len(anchors), device=anchors.device) + start
    return F.cross_entropy(unit(anchors) @ unit(candidates).T / temperature, place)


@register("ckd")
class CKD(Objective):
    """Contrast of raw logits: a teacher's row picks the student's row of the same image among those of the batch."""

    config = CKDConfig
    provenance = "author-code"
    family = "logits"
    source = "Zhu, Zhou, Zhu et al., CKD, arXiv 2404.14109; ZhouXinzzzzz/CKD"
    mixable = True
    # Released weights are 10 to 100 at T 1 or 2; at T 0.1 the cosines' floor asks for about 1.
    search_space: ClassVar = {"weight": "loguniform(1, 100)", "temperature": "loguniform(0.1, 2)"}
    options: CKDConfig

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(teacher_logits=True)

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
        options, start, total = self.options, 0, student.logits.new_zeros(())
        logits = comparable(student.logits, teacher.logits, options.standardise)
        # One view is one batch: the same image in another view would be a negative of itself.
        for s, t in zip(*(one.chunk(targets.views) for one in logits), strict=True):
            if options.gather == "global":
                start, s = own_rows(len(s)).start, gather_rows(s)
            total = total + sample_contrast(t, s, start, options.temperature)
        return {LOSS: total / targets.views}
