"""Variational information distillation: a Gaussian over the teacher's map whose mean the student gives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from kdray.experiment.bounds import Count, Positive
from kdray.objectives.connectors import Conv, StagesConfig, pair_stages, pool_larger
from kdray.objectives.contract import LOSS, Needs, Objective, Setup, StepInfo, Targets
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class VIDConfig(StagesConfig):
    """`variance` at the start, above `floor`, the least one. `hidden`: width of the regressor, by default the
    teacher's. `stages`: see `StagesConfig`."""

    variance: Positive = 5.0
    floor: Positive = 1e-5
    hidden: Count | None = None

    @model_validator(mode="after")
    def _above_the_floor(self) -> VIDConfig:
        if self.variance <= self.floor:
            raise ValueError(f"variance must be above floor ({self.floor:g}), not {self.variance:g}")
        return self


def negative_log_likelihood(mean: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    """Mean over rows, channels and places of ((mean - target)^2 / variance + ln variance) / 2.

    mean, target [n, C, H, W], variance [C], scalar out. The constant ln(2 pi) / 2 is left out.
    """
    spread = variance[None, :, None, None]
    return 0.5 * ((mean - target).square() / spread + spread.log()).mean()


class Gaussian(nn.Module):
    """One stage: three 1x1 convolutions without bias for the mean, one variance per channel of the teacher."""

    def __init__(self, channels_s: int, channels_t: int, options: VIDConfig) -> None:
        super().__init__()
        hidden = options.hidden or channels_t
        layers = [Conv(channels_s, hidden, 1), nn.ReLU(), Conv(hidden, hidden, 1), nn.ReLU()]
        self.mean = nn.Sequential(*layers, Conv(hidden, channels_t, 1))
        self.floor = options.floor
        # softplus(scale) + floor is the wanted variance; written so that it holds for large ones too.
        start = options.variance - options.floor
        self.scale = nn.Parameter(torch.full((channels_t,), start + math.log(-math.expm1(-start))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = pool_larger(student, teacher)
        variance = F.softplus(self.scale.to(teacher.dtype)) + self.floor
        return negative_log_likelihood(self.mean(student), teacher, variance)


@register("vid")
class VID(Objective):
    """Negative log-likelihood of the teacher's maps under Gaussians with trained variances, summed over stages."""

    config = VIDConfig
    provenance = "author-code"
    family = "features"
    source = "Ahn et al., Variational Information Distillation, CVPR 2019 (arXiv 1904.05835)"
    mixable = True
    # The published 1, a decade to either side.
    search_space: ClassVar = {"weight": "loguniform(0.1, 10)"}
    options: VIDConfig

    def __init__(self, options: VIDConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        self.pairs = pair_stages(setup, options.stages)
        widths = [(setup.student.stage_shapes[s][0], setup.teacher.stage_shapes[t][0]) for s, t in self.pairs]
        self.gaussians = nn.ModuleList(Gaussian(*width, options) for width in widths)

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
        total = student.pooled.new_zeros(())
        for (s, t), gaussian in zip(self.pairs, self.gaussians, strict=True):
            total = total + gaussian(student.stages[s], teacher.stages[t])
        return {LOSS: total}
