"""Knowledge correlation of MLKD: how alike rotated and upright images are to the student as to the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from kdray.experiment.bounds import Count, NonNegative, Positive
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
from kdray.objectives.gather import gather_rows, own_rows
from kdray.objectives.heads import off_diagonal
from kdray.objectives.mlp import MLPHead
from kdray.objectives.registry import register
from kdray.objectives.similarity import similarity_kl

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class CorrelationConfig(ObjectiveConfig):
    """Options of `mlkd.correlation`.

    - `temperature`: tau of both distributions.
    - `min_views`: `data.views` has to be this at least; 1 allows the form for one view.
    - `gather`: compare with the first views of the global batch or of the worker's own.
    """

    weight: NonNegative = 50.0
    temperature: Positive = 0.5
    min_views: Count = 4
    gather: Gather = "global"


@register("mlkd.correlation")
class Correlation(Objective):
    """Distributions of similarity from the other views to the first ones, kept (MLKD's relational level)."""

    config = CorrelationConfig
    provenance = "author-code"
    family = "relational"
    source = "MLKD / DLKD: Ding et al., arXiv 2012.00573, TNNLS 2024; its views from SSKD, ECCV 2020"
    mixable = True
    # The authors take 10, 20 or 50, at tau 0.5.
    search_space: ClassVar = {"weight": "loguniform(5, 200)", "temperature": "loguniform(0.1, 1)"}
    options: CorrelationConfig

    def __init__(self, options: CorrelationConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        width = setup.student.pooled_dim
        self.head = MLPHead(width, width, width, options.gather)

    @classmethod
    def needs(cls, options: CorrelationConfig) -> Needs:
        return Needs(teacher_pooled=True, min_views=options.min_views)

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
        options, samples, t = self.options, len(targets.labels), teacher.pooled
        s = self.head(student.pooled)
        own, columns_s, columns_t = slice(0, samples), s[:samples], t[:samples]
        if options.gather == "global":
            own, columns_s, columns_t = own_rows(samples), gather_rows(columns_s), gather_rows(columns_t)
        if targets.views > 1:  # a row's own image stays among the columns: it is there upright, the row is not
            return {LOSS: similarity_kl(s[samples:], t[samples:], columns_s, columns_t, options.temperature)}
        other = off_diagonal(samples, len(columns_s), own.start, s.device)
        return {LOSS: similarity_kl(s, t, columns_s, columns_t, options.temperature, other)}
