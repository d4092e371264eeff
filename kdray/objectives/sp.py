"""Similarity-preserving distillation: which samples of a batch activate the last feature map alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from kdray.errors import ConfigError
from kdray.experiment.bounds import NonNegative
from kdray.objectives.contract import LOSS, Gather, Needs, Objective, ObjectiveConfig, Setup, StepInfo, Targets
from kdray.objectives.gather import gather_rows
from kdray.objectives.heads import unit
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class SPConfig(ObjectiveConfig):
    """`gather`: compare the rows of the global batch, or only the worker's own."""

    weight: NonNegative = 3000.0
    gather: Gather = "global"


def similarity_preserving(student: Tensor, teacher: Tensor, all_student: Tensor, all_teacher: Tensor) -> Tensor:
    """||G_t - G_s||_F^2 / n^2 with G = rows of F F^T at unit length (Tung and Mori, ICCV 2019); m of n rows, times n/m.

    student [m, d_s], teacher [m, d_t]; all_student [n, d_s], all_teacher [n, d_t].
    """
    difference = unit(teacher @ all_teacher.T) - unit(student @ all_student.T)
    return difference.square().sum() / (len(student) * len(all_student))


@register("sp")
class SP(Objective):
    """Similarities between the samples of a batch, on the last feature map, kept from teacher to student."""

    config = SPConfig
    provenance = "paper"
    family = "relational"
    source = "Tung and Mori, ICCV 2019 (arXiv 1907.09682)"
    mixable = True
    # The published 3000.
    search_space: ClassVar = {"weight": "loguniform(300, 10000)"}
    options: SPConfig

    def __init__(self, options: SPConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        for info in (setup.student, setup.teacher):
            if info is not None and not info.stage_shapes:
                raise ConfigError(f"{info.name} hands out no feature map", fix="Name its `stages`")

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(stages=True)

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
        s, t = student.stages[-1].flatten(1), teacher.stages[-1].flatten(1)
        everyone = (gather_rows(s), gather_rows(t)) if self.options.gather == "global" else (s, t)
        return {LOSS: similarity_preserving(s, t, *everyone)}
