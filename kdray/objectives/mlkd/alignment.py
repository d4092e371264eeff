"""Knowledge alignment of MLKD: the student's vector, through a head, points where the teacher's does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from kdray.experiment.bounds import Count, NonNegative
from kdray.objectives.contract import LOSS, Needs, Objective, ObjectiveConfig, Setup, StepInfo, Targets
from kdray.objectives.gather import world
from kdray.objectives.heads import unit
from kdray.objectives.mlp import MLPHead
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs

log = logging.getLogger(__name__)


class AlignmentConfig(ObjectiveConfig):
    """Options of `mlkd.alignment`.

    - `multiplier`: hidden width of the head, in widths of the teacher's pooled vector.
    - `max_weights`: the hidden width is cut, with a warning, where the head's second Linear would hold more weights.
    - `hidden`: the hidden width itself, in the place of both.
    - `views`: `first` aligns the first view alone.
    """

    weight: NonNegative = 20.0
    multiplier: Count = 16
    max_weights: Count = 2**22
    hidden: Count | None = None
    views: Literal["all", "first"] = "all"


def direction_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows of ||unit(student) - unit(teacher)||^2 = 2 - 2 cos; both [n, d], scalar in [0, 4] out."""
    return (2.0 - 2.0 * (unit(student) * unit(teacher)).sum(dim=1)).mean()


def hidden_width(options: AlignmentConfig, teacher_dim: int) -> int:
    """Hidden width of the head for a teacher's pooled vector of `teacher_dim`; a cut is logged by one worker."""
    if options.hidden is not None:
        return options.hidden
    published = options.multiplier * teacher_dim
    hidden = min(published, max(1, options.max_weights // teacher_dim))
    if hidden < published and world()[0] == 0:
        log.warning(
            "mlkd.alignment: a head of %d x %d hidden units for a teacher as wide as %d is cut to %d hidden units "
            "(max_weights, hidden)",
            options.multiplier,
            teacher_dim,
            teacher_dim,
            hidden,
        )
    return hidden


@register("mlkd.alignment")
class Alignment(Objective):
    """Squared distance of unit vectors, the student's through an MLP head (MLKD's individual level)."""

    config = AlignmentConfig
    provenance = "author-code"
    family = "features"
    source = "MLKD / DLKD: Ding et al., arXiv 2012.00573, TNNLS 2024"
    mixable = True
    # The authors take 10 or 20.
    search_space: ClassVar = {"weight": "loguniform(1, 60)"}
    options: AlignmentConfig

    def __init__(self, options: AlignmentConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        dim = setup.teacher.pooled_dim
        self.head = MLPHead(setup.student.pooled_dim, hidden_width(options, dim), dim)

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
        rows = len(targets.labels) if self.options.views == "first" else len(student.pooled)
        return {LOSS: direction_distance(self.head(student.pooled[:rows]), teacher.pooled[:rows])}
