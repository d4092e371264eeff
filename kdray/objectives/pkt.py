"""Probabilistic knowledge transfer: each sample's similarities to the batch as a distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from kdray.experiment.bounds import NonNegative
from kdray.objectives.contract import LOSS, Gather, Needs, Objective, ObjectiveConfig, StepInfo, Targets
from kdray.objectives.gather import gather_rows
from kdray.objectives.heads import unit
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs

EPS = 1e-7


class PKTConfig(ObjectiveConfig):
    """`gather`: similarities to the rows of the global batch, or only to the worker's own."""

    weight: NonNegative = 30000.0
    gather: Gather = "global"


def neighbours(rows: Tensor, everyone: Tensor) -> Tensor:
    """p_ij = (1 + cos(x_i, x_j)) / 2, every row brought to sum 1: [m, d], [n, d] -> [m, n]."""
    similar = (1.0 + unit(rows) @ unit(everyone).T) / 2.0
    return similar / similar.sum(dim=1, keepdim=True)


def probabilistic_transfer(student: Tensor, teacher: Tensor, all_student: Tensor, all_teacher: Tensor) -> Tensor:
    """Mean over ALL m*n entries of p^t log((p^t + eps) / (p^s + eps)), not over rows: hence the weight of 30000.

    student [m, d_s], teacher [m, d_t]; all_student [n, d_s], all_teacher [n, d_t].
    """
    p, q = neighbours(teacher, all_teacher), neighbours(student, all_student)
    return (p * ((p + EPS) / (q + EPS)).log()).mean()


@register("pkt")
class PKT(Objective):
    """Divergence of each sample's distribution over the batch, by cosine similarity, from the teacher's."""

    config = PKTConfig
    provenance = "author-code"
    family = "relational"
    source = "Passalis and Tefas, ECCV 2018 (arXiv 1803.10837)"
    mixable = True
    # The published 30000.
    search_space: ClassVar = {"weight": "loguniform(3000, 100000)"}
    options: PKTConfig

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(teacher_pooled=True)

    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> dict[str, Tensor]:
        assert teacher is not None
        s, t = student.pooled, teacher.pooled
        everyone = (gather_rows(s), gather_rows(t)) if self.options.gather == "global" else (s, t)
        return {LOSS: probabilistic_transfer(s, t, *everyone)}
