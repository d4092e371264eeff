"""Curriculum temperature: distillation at a temperature that is learned against the student."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdray.experiment.bounds import Count, NonNegative, Positive
from kdray.objectives.contract import LOSS, Needs, Objective, ObjectiveConfig, Setup, StepInfo, Targets
from kdray.objectives.heads import Projection
from kdray.objectives.registry import register
from kdray.objectives.standardise import comparable

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class CTKDConfig(ObjectiveConfig):
    """T = `lowest` + `span` * sigmoid(theta). `reversal` is what theta's gradient is reversed by, reached along a
    cosine over the first `reversal_epochs`. `instance`: theta of every sample from both logits, by an MLP of `hidden`
    units, instead of one number. `standardise` as in `kd`."""

    weight: NonNegative = 0.9
    lowest: Positive = 1.0
    span: NonNegative = 20.0
    reversal: NonNegative = 1.0
    reversal_epochs: NonNegative = 10.0
    instance: bool = False
    hidden: Count = 64
    standardise: bool = False

    def reversal_at(self, epoch: float) -> float:
        """The factor on theta's gradient, from 0 to -`reversal` (arXiv 2211.16231, equation 11)."""
        done = 1.0 if self.reversal_epochs == 0 else min(epoch / self.reversal_epochs, 1.0)
        return -self.reversal * 0.5 * (1.0 - math.cos(math.pi * done))


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x` itself, whose gradient is multiplied by `factor`: below 0, what minimises the loss raises it through `x`."""
    return x.detach() + factor * (x - x.detach())


def kl_at(student: Tensor, teacher: Tensor, temperature: Tensor) -> Tensor:
    """mean over rows of T^2 KL(softmax(teacher / T) || softmax(student / T)); logits [n, C], temperature [] or [n]."""
    column = temperature.reshape(-1, 1)
    log_p, log_q = (F.log_softmax(logits / column, dim=1) for logits in (teacher, student))
    return (temperature.square() * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)).mean()


@register("ctkd")
class CTKD(Objective):
    """KD at a learned temperature, whose reversed gradient makes the task harder as training goes on."""

    config = CTKDConfig
    provenance = "author-code"
    family = "logits"
    source = "Li et al., AAAI 2023, arXiv 2211.16231; zhengli97/CTKD"
    mixable = True
    # The released 0.9 (9 with standardised logits); half and twice the published span of temperatures.
    search_space: ClassVar = {"weight": "loguniform(0.1, 20)", "span": "loguniform(10, 40)"}
    options: CTKDConfig

    def __init__(self, options: CTKDConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        if options.instance:
            last = Projection(options.hidden, 1)
            # Starts where the global one does, whatever the logits: a usual start spreads T by several degrees.
            nn.init.ones_(last.bias)
            nn.init.normal_(last.weight, std=5e-4)
            self.mlp = nn.Sequential(Projection(2 * setup.num_classes, options.hidden), nn.ReLU(), last)
        else:
            self.theta = nn.Parameter(torch.ones(()))

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(teacher_logits=True)

    def part_weights(self, step: StepInfo) -> dict[str, float]:
        return {"temperature": 0.0}

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
        s, t = comparable(student.logits, teacher.logits, options.standardise)
        # The logits enter detached: through the MLP the reversed gradient would turn the student against itself.
        theta = self.mlp(torch.cat([t, s], dim=1).detach()).squeeze(1) if options.instance else self.theta.to(s.dtype)
        theta = scale_gradient(theta, options.reversal_at(step.epoch))
        temperature = options.lowest + options.span * theta.sigmoid()
        return {LOSS: kl_at(s, t, temperature), "temperature": temperature.mean()}
