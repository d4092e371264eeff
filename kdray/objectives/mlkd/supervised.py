"""The supervised contrastive part of MLKD: embeddings of both networks, in all views, with the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from kdray.experiment.bounds import Count, Positive
from kdray.objectives.contract import (
    LOSS,
    Gather,
    Needs,
    Objective,
    ObjectiveConfig,
    Setup,
    StepInfo,
    Targets,
)
from kdray.objectives.contrast import label_contrast
from kdray.objectives.heads import Embed
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class SupervisedConfig(ObjectiveConfig):
    """Options of `mlkd.supervised`: `temperature` tau, `dim` d of the embeddings, `gather` (contrast with the rows of
    the global batch or the worker's own)."""

    temperature: Positive = 0.07
    dim: Count = 128
    gather: Gather = "global"


@register("mlkd.supervised")
class Supervised(Objective):
    """Supervised contrast over the embeddings of student and teacher (MLKD's categorical level)."""

    config = SupervisedConfig
    provenance = "author-code"
    family = "contrastive"
    source = "MLKD / DLKD: Ding et al., arXiv 2012.00573, TNNLS 2024; Khosla et al., NeurIPS 2020, arXiv 2004.11362"
    # The authors take 1, on ImageNet 0.5 or 1, at tau 0.07.
    search_space: ClassVar = {"weight": "loguniform(0.1, 3)", "temperature": "loguniform(0.05, 0.2)"}
    options: SupervisedConfig

    def __init__(self, options: SupervisedConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        self.embed_student = Embed(setup.student.pooled_dim, options.dim)
        self.embed_teacher = Embed(setup.teacher.pooled_dim, options.dim)

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
        options = self.options
        embeddings = [self.embed_student(student.pooled), self.embed_teacher(teacher.pooled)]
        return {LOSS: label_contrast(embeddings, targets.row_labels, options.temperature, options.gather)}
