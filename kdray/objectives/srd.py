"""Simple recipe distillation: a linear projector, normalisation over the batch, the logarithm of a fourth power."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from kdray.experiment.bounds import NonNegative, Positive
from kdray.objectives.contract import LOSS, Needs, Objective, ObjectiveConfig, Setup, StepInfo, Targets
from kdray.objectives.gather import sum_over_workers
from kdray.objectives.heads import TINY, Projection
from kdray.objectives.norm import BatchNorm
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class SRDConfig(ObjectiveConfig):
    """`exponent` of the differences, at least 1; `eps` is added to the variances that both features are divided by."""

    weight: NonNegative = 2.0
    exponent: Annotated[float, Field(ge=1)] = 4.0
    eps: Positive = 1e-4


def log_sum(student: Tensor, teacher: Tensor, exponent: float) -> Tensor:
    """log( sum over all rows of all workers and channels of |s - t|^exponent + 1e-8 ); [n, d] each, scalar out."""
    total, _ = sum_over_workers((student - teacher).abs().pow(exponent).sum())
    return (total + TINY).log()


@register("srd")
class SRD(Objective):
    """Logarithm of the summed fourth powers between projected student and teacher, both normalised over the batch."""

    config = SRDConfig
    provenance = "author-code"
    family = "features"
    source = "Miles and Mikolajczyk, AAAI 2024 (arXiv 2303.11098)"
    mixable = True
    # The released 2 and exponent 4.
    search_space: ClassVar = {"weight": "loguniform(0.2, 10)", "exponent": "uniform(2, 6)"}
    options: SRDConfig

    def __init__(self, options: SRDConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        width = setup.teacher.pooled_dim
        self.project = Projection(setup.student.pooled_dim, width, bias=False)  # a bias would be normalised away
        self.norm = BatchNorm(width, affine=False, eps=options.eps)

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
        s, t = self.norm(self.project(student.pooled)), self.norm(teacher.pooled)
        return {LOSS: log_sum(s, t, self.options.exponent)}
