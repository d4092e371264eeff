"""Decoupled knowledge distillation: the target's share of the probability, and how the rest is spread, apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdray.experiment.bounds import NonNegative, Positive
from kdray.objectives.contract import (
    Needs,
    Objective,
    ObjectiveConfig,
    StepInfo,
    Targets,
    WeightSchedule,
)
from kdray.objectives.heads import HIDDEN
from kdray.objectives.registry import register
from kdray.objectives.standardise import comparable

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class DKDConfig(ObjectiveConfig):
    """`alpha` weighs the target part, `beta` the rest; `temperature` T > 0; `standardise` as in `kd`. The published
    recipe grows the weight over the first 20 epochs."""

    schedule: WeightSchedule = WeightSchedule(type="warmup", epochs=20.0)
    alpha: NonNegative = 1.0
    beta: NonNegative = 8.0
    temperature: Positive = 4.0
    standardise: bool = False


def others(logits: Tensor, labels: Tensor) -> Tensor:
    """log softmax over all classes but the label; logits [n, C], labels int64 [n], result [n, C], about -1e9 at the
    label (its probability is exactly 0; with a single class there are no others, and the row is 0)."""
    return F.log_softmax(logits.masked_fill(_is_label(logits, labels), HIDDEN), dim=1)


def target_share(logits: Tensor, labels: Tensor) -> Tensor:
    """log p and log (1 - p) of the label's probability p, [n, 2]; logits [n, C], labels int64 [n].

    The second is a sum over the others' log-probabilities: 1 - p would be 0, and its logarithm infinite, wherever p
    rounds to 1.
    """
    log_p = F.log_softmax(logits, dim=1)
    rest = log_p.masked_fill(_is_label(logits, labels), HIDDEN).logsumexp(dim=1, keepdim=True)
    return torch.cat([log_p.gather(1, labels[:, None]), rest], dim=1)


def _is_label(logits: Tensor, labels: Tensor) -> Tensor:
    return labels[:, None] == torch.arange(logits.shape[1], device=logits.device)[None, :]


def decoupled_kl(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(TCKD, NCKD), each T^2 * mean over rows of a KL; logits [n, C], labels int64 [n], scalars out.

    TCKD: of the pair (p_label, 1 - p_label). NCKD: of the softmax over the other classes (arXiv 2203.08679, equations
    6 and 7).
    """
    s, t = student / temperature, teacher / temperature
    pairs = (target_share(s, labels), target_share(t, labels)), (others(s, labels), others(t, labels))
    target, rest = (F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) for log_q, log_p in pairs)
    return temperature**2 * target, temperature**2 * rest


@register("dkd")
class DKD(Objective):
    """The teacher's probability of the label, and its distribution over the other classes, as two divergences."""

    config = DKDConfig
    provenance = "author-code"
    family = "logits"
    source = "Zhao et al., CVPR 2022, arXiv 2203.08679; megvii-research/mdistiller"
    # Released betas are 0.5 to 8, weights 1 (9 to 18 with standardised logits), T 1 or 4.
    search_space: ClassVar = {
        "weight": "loguniform(0.5, 20)",
        "beta": "loguniform(0.5, 10)",
        "temperature": "loguniform(1, 8)",
    }
    options: DKDConfig

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(teacher_logits=True)

    def part_weights(self, step: StepInfo) -> dict[str, float]:
        return {"target": self.options.alpha, "others": self.options.beta}

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
        target, rest = decoupled_kl(s, t, targets.row_labels, self.options.temperature)
        return {"target": target, "others": rest}
