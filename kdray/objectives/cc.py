"""Correlation congruence, in the form that is compared in the literature: products of neighbouring differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from kdray.experiment.bounds import Count, NonNegative
from kdray.objectives.contract import LOSS, Gather, Needs, Objective, ObjectiveConfig, Setup, StepInfo, Targets
from kdray.objectives.draws import Tag, draw, row_keys
from kdray.objectives.gather import gather_rows
from kdray.objectives.heads import Projection
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class CCConfig(ObjectiveConfig):
    """`dim` of the two embeddings, both trained; `gather`: pairs in the global batch, or among a worker's rows."""

    weight: NonNegative = 0.02
    dim: Count = 128
    gather: Gather = "global"


def congruence(difference: Tensor) -> Tensor:
    """Mean over consecutive rows of sum_k d_ik d_(i+1)k, for |e^s - e^t| [n, k]; 0 for a single row."""
    products = (difference[:-1] * difference[1:]).sum()
    return products / max(len(difference) - 1, 1)


@register("cc")
class CC(Objective):
    """Products of the embedded teacher-student differences of neighbouring samples."""

    config = CCConfig
    provenance = "author-code"
    family = "relational"
    source = "Peng et al., ICCV 2019 (arXiv 1904.01802), as in RepDistiller"
    mixable = True
    # The published 0.02, a decade to either side.
    search_space: ClassVar = {"weight": "loguniform(0.002, 0.2)"}
    options: CCConfig

    def __init__(self, options: CCConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        self.embed_student = Projection(setup.student.pooled_dim, options.dim)
        self.embed_teacher = Projection(setup.teacher.pooled_dim, options.dim)

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(teacher_pooled=True, index=True)

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
        difference = (self.embed_student(student.pooled) - self.embed_teacher(teacher.pooled)).abs()
        keys = row_keys(targets.index, targets.views)
        if self.options.gather == "global":
            difference, keys = gather_rows(difference), gather_rows(keys)
        # Who is whose neighbour is drawn, and not how the rows happen to lie: the same pairs on any number of workers.
        places = draw(keys, 1, seed=step.seed, step=step.step, tag=Tag.NEIGHBOURS)[:, 0].argsort(stable=True)
        return {LOSS: congruence(difference[places])}
