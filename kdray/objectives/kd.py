"""Knowledge distillation of softened logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kdray.experiment.bounds import Positive
from kdray.objectives.contract import LOSS, Needs, Objective, ObjectiveConfig, StepInfo, Targets
from kdray.objectives.registry import register
from kdray.objectives.standardise import comparable

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class KDConfig(ObjectiveConfig):
    """`temperature` T > 0 softens both sides. `standardise` divides the logits of both networks by their own spread
    first. `views: first` leaves out all views but the first."""

    temperature: Positive = 4.0
    standardise: bool = False
    views: Literal["all", "first"] = "all"


def softened_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * mean over rows of KL(softmax(teacher / T) || softmax(student / T)); logits [n, C] each, scalar out.

    T^2 keeps the size of the gradient independent of T (Hinton et al., arXiv 1503.02531, section 2).
    """
    log_p = F.log_softmax(teacher / temperature, dim=1)
    log_q = F.log_softmax(student / temperature, dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


@register("kd")
class KD(Objective):
    """Kullback-Leibler divergence from the teacher's softened distribution to the student's, times T^2."""

    config = KDConfig
    provenance = "paper"
    family = "logits"
    source = "Hinton, Vinyals, Dean, arXiv 1503.02531"
    mixable = True
    # Recipes of 0.5 to 1, and 1 to 18 with standardised logits; T 1 on ImageNet, 2 to 6 on CIFAR.
    search_space: ClassVar = {"weight": "loguniform(0.1, 20)", "temperature": "loguniform(1, 8)"}
    options: KDConfig

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
        rows = len(targets.labels) if self.options.views == "first" else len(student.logits)
        s, t = comparable(student.logits[:rows], teacher.logits[:rows], self.options.standardise)
        return {LOSS: softened_kl(s, t, self.options.temperature)}
