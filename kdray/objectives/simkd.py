"""SimKD: the student keeps its backbone and takes over the teacher's classifier, through a projector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdray.errors import ConfigError
from kdray.experiment.bounds import Count
from kdray.models.composed import NAME, Projector, Shape, compose, fit
from kdray.objectives.contract import LOSS, Needs, Objective, ObjectiveConfig, Setup, StepInfo, Targets
from kdray.objectives.norm import KeptBatchNorm
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import ModelInfo, Net, Outputs

_TOLERANCE = 1e-3
"""Of the largest entry, by which a teacher's pooled vector may differ from the mean of its last map."""


class SimKDConfig(ObjectiveConfig):
    """`factor`: the projector is 1 / factor as wide inside as the teacher's last map."""

    factor: Count = 2


@register("simkd")
class SimKD(Objective):
    """Match the teacher's last feature map through a projector; deployed with the teacher's classifier."""

    config = SimKDConfig
    provenance = "author-code"
    family = "features"
    source = "Chen et al., CVPR 2022 (arXiv 2203.14001)"
    mixable = True
    # The published 1, a decade to either side; it has no other.
    search_space: ClassVar = {"weight": "loguniform(0.1, 10)"}
    options: SimKDConfig

    def __init__(self, options: SimKDConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        student, teacher = setup.student, setup.teacher
        _check(student, teacher, setup.num_classes)
        self.shape = Shape(teacher.pooled_dim, teacher.stage_shapes[-1][-1], options.factor)
        self.projector = Projector(student.stage_shapes[-1][0], self.shape.channels, options.factor, KeptBatchNorm)

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
        projected = self.projector(fit(student.stages[-1], self.shape.side))
        return {LOSS: F.mse_loss(projected, fit(teacher.stages[-1], projected.shape[-1]))}

    def deployed(self, net: Net, teacher: Net | None) -> Net:
        assert teacher is not None and teacher.classifier is not None
        _check_pooling(teacher)
        return compose(net, self.projector, teacher.classifier, self.shape)


def _check(student: ModelInfo, teacher: ModelInfo, classes: int) -> None:
    """Raise ConfigError where the teacher's classifier cannot read a map that is as wide as its last one."""
    if student.name == NAME:
        raise ConfigError("the student is itself a composed network", fix="Give the plain student")
    for info in (student, teacher):
        if not info.stage_shapes:
            raise ConfigError(f"{info.name} hands out no feature map", fix="Name its `stages`")
    if not teacher.linear_head:
        fix = "Use a teacher with a linear classifier"
        raise ConfigError(f"the classifier of {teacher.name} is not one Linear on its pooled vector", fix=fix)
    if teacher.num_classes != classes:
        problem = f"it takes over the classifier: {teacher.name} has {teacher.num_classes} classes, the data {classes}"
        raise ConfigError(problem, fix="Use a teacher of the same classes")
    if teacher.stage_shapes[-1][0] != teacher.pooled_dim:
        raise ConfigError(
            f"the classifier of {teacher.name} reads {teacher.pooled_dim} channels, and its last map has "
            f"{teacher.stage_shapes[-1][0]}",
            fix="Name the layer before its pooling as the last of the teacher's `stages`, or use another teacher",
        )


@torch.no_grad()
def _check_pooling(teacher: Net) -> None:
    """Raise ConfigError unless the teacher's pooled vector is the mean of its last map, seen on random images."""
    parameter = next(teacher.parameters())
    size = teacher.recipe["image_size"]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(parameter)
    outputs = teacher(images, stages=True)
    difference = (outputs.stages[-1].mean(dim=(2, 3)) - outputs.pooled).abs().max()
    if not bool(difference <= _TOLERANCE * outputs.pooled.abs().max()):
        raise ConfigError(
            f"the classifier of {teacher.info.name} does not read the mean of its last map",
            fix="Name the layer before its pooling as the last of the teacher's `stages`, or use another teacher",
        )
