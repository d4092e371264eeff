"""Softmax regression representation learning: the student's connected feature, read by the teacher's classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kdray.errors import ConfigError
from kdray.experiment.bounds import NonNegative
from kdray.objectives.contract import Needs, Objective, ObjectiveConfig, Setup, StepInfo, Targets
from kdray.objectives.norm import BatchNorm
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class SRRLConfig(ObjectiveConfig):
    """`feature` and `regression` weigh the two parts. `connect` the student's `pooled` vector, or its last `map`
    place by place, whose mean is then taken."""

    feature: NonNegative = 1.0
    regression: NonNegative = 1.0
    connect: Literal["pooled", "map"] = "pooled"


class Connector(nn.Module):
    """A 1x1 convolution, batch norm over the global batch, ReLU: [n, d_s] or [n, d_s, H, W] -> [n, d_t]."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(student, teacher, 1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.norm = BatchNorm(teacher)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight.to(x.dtype)
        if x.dim() == 2:
            return F.relu(self.norm(F.linear(x, weight[:, :, 0, 0])))
        return F.relu(self.norm(F.conv2d(x, weight))).mean(dim=(2, 3))


def read_by(head: nn.Linear, features: Tensor) -> Tensor:
    """Logits of the frozen `head` on `features` [n, d]: gradients pass through it and stop at its parameters."""
    bias = None if head.bias is None else head.bias.detach().to(features.dtype)
    return F.linear(features, head.weight.detach().to(features.dtype), bias)


@register("srrl")
class SRRL(Objective):
    """The student's connected feature is to equal the teacher's, and to make the teacher's classifier say the same."""

    config = SRRLConfig
    provenance = "paper"
    family = "features"
    source = "Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021 (arXiv 2003.04289)"
    mixable = True
    # The published 1 and 1; the overall weight would say the same again.
    search_space: ClassVar = {"feature": "loguniform(0.1, 10)", "regression": "loguniform(0.1, 10)"}
    options: SRRLConfig

    def __init__(self, options: SRRLConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        if not setup.teacher.linear_head:
            raise ConfigError(
                f"the classifier of {setup.teacher.name} is not one Linear on its pooled vector",
                fix="Use a teacher with a linear classifier",
            )
        width = setup.student.pooled_dim
        if options.connect == "map":
            if not setup.student.stage_shapes:
                raise ConfigError(
                    f"{setup.student.name} hands out no feature map", where="connect", fix="Connect `pooled`"
                )
            width = setup.student.stage_shapes[-1][0]
        self.connector = Connector(width, setup.teacher.pooled_dim)

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(teacher_logits=True, teacher_pooled=True, stages=options.connect == "map")

    def part_weights(self, step: StepInfo) -> dict[str, float]:
        return {"feature": self.options.feature, "regression": self.options.regression}

    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> dict[str, Tensor]:
        assert teacher is not None and teacher.logits is not None and teacher_head is not None
        x = self.connector(student.stages[-1] if self.options.connect == "map" else student.pooled)
        return {
            "feature": F.mse_loss(x, teacher.pooled),
            "regression": F.mse_loss(read_by(teacher_head, x), teacher.logits),
        }
