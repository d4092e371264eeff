"""Cross-entropy with the label: the supervised part of every recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kdray.errors import ConfigError
from kdray.experiment.bounds import BelowOne
from kdray.objectives.contract import LOSS, Objective, ObjectiveConfig, Setup, StepInfo, Targets
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class CEConfig(ObjectiveConfig):
    """`label_smoothing` in [0, 1): the share of the target that is spread over all classes. `views: first` leaves out
    all views but the first, as recipes with rotated views do."""

    label_smoothing: BelowOne = 0.0
    views: Literal["all", "first"] = "all"


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean over rows of -log softmax(logits)[label]; logits [n, C], labels int64 [n], scalar out."""
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


@register("ce")
class CE(Objective):
    """Cross-entropy with the labels."""

    config = CEConfig
    provenance = "paper"
    family = "supervised"
    source = "Label smoothing: Szegedy et al., CVPR 2016"
    mixable = True
    options: CEConfig

    def __init__(self, options: CEConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        if setup.student.num_classes is None:
            fix = "Write classifier: true, or use objectives that read features"
            raise ConfigError(f"{setup.student.name} has no classifier", fix=fix)

    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> dict[str, Tensor]:
        assert student.logits is not None
        rows = len(targets.labels) if self.options.views == "first" else len(student.logits)
        logits, smoothing = student.logits[:rows], self.options.label_smoothing
        loss = cross_entropy(logits, targets.row_labels[:rows], smoothing)
        other = targets.row_mixed_labels
        if targets.mixed is not None and other is not None:
            # Linear in the target: the same as the entropy of the mixed and smoothed target.
            share = targets.mixed.share
            loss = share * loss + (1.0 - share) * cross_entropy(logits, other[:rows], smoothing)
        return {LOSS: loss}
