"""Normalised knowledge distillation: the label's term weighed by the teacher, and the other classes renormalised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from kdray.experiment.bounds import NonNegative, Positive
from kdray.objectives.contract import Needs, Objective, ObjectiveConfig, StepInfo, Targets
from kdray.objectives.dkd import others
from kdray.objectives.registry import register
from kdray.objectives.standardise import comparable

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class NKDConfig(ObjectiveConfig):
    """`gamma` weighs the other classes, softened by `temperature` T > 0; `standardise` as in `kd`."""

    gamma: NonNegative = 1.5
    temperature: Positive = 1.0
    standardise: bool = False


def label_term(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """-mean over rows of p_teacher(label) log p_student(label), at temperature 1; logits [n, C], labels int64 [n]."""
    log_q = F.log_softmax(student, dim=1).gather(1, labels[:, None])
    return -(F.softmax(teacher, dim=1).gather(1, labels[:, None]) * log_q).mean()


def other_classes(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 * mean over rows of the cross-entropy between the softmaxes over all classes but the label; logits [n, C]."""
    log_q, log_p = others(student / temperature, labels), others(teacher / temperature, labels)
    return -(temperature**2) * (log_p.exp() * log_q).sum(dim=1).mean()


@register("nkd")
class NKD(Objective):
    """Cross-entropy of the label weighed by the teacher's, and of the renormalised other classes."""

    config = NKDConfig
    provenance = "author-code"
    family = "logits"
    source = "Yang et al., ICCV 2023, arXiv 2303.13005; yzd-v/cls_KD"
    # Released: weight 1; gamma 1.5 and T 1 on ImageNet, 3.5 and 3 on CIFAR.
    search_space: ClassVar = {
        "weight": "loguniform(0.3, 3)",
        "gamma": "loguniform(0.5, 5)",
        "temperature": "loguniform(1, 4)",
    }
    options: NKDConfig

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(teacher_logits=True)

    def part_weights(self, step: StepInfo) -> dict[str, float]:
        return {"others": self.options.gamma}

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
        s, t = comparable(student.logits, teacher.logits, self.options.standardise)
        labels = targets.row_labels
        return {"target": label_term(s, t, labels), "others": other_classes(s, t, labels, self.options.temperature)}
