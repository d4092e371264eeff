"""Attention transfer: where the student's maps are active, compared with where the teacher's are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from kdray.experiment.bounds import NonNegative
from kdray.objectives.connectors import StagesConfig, check_positions, pair_stages, pool_larger
from kdray.objectives.contract import LOSS, Needs, Objective, Setup, StepInfo, Targets
from kdray.objectives.heads import unit
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class ATConfig(StagesConfig):
    """`p` >= 1: the power of an activation's size that counts as attention. `stages`: see `StagesConfig`."""

    weight: NonNegative = 1000.0
    p: Annotated[float, Field(ge=1)] = 2.0


def attention(maps: Tensor, p: float) -> Tensor:
    """unit(mean over channels of |F|^p) as one vector per row: [n, C, H, W] -> [n, H * W]."""
    size = maps.square() if p == 2 else maps.abs().pow(p)
    return unit(size.mean(dim=1).flatten(1))


def attention_transfer(student: Tensor, teacher: Tensor, p: float) -> Tensor:
    """Mean over rows and places of the squared distance of both attention vectors; the larger map is pooled first.

    student [n, C_s, H_s, W_s], teacher [n, C_t, H_t, W_t], scalar out.
    """
    student, teacher = pool_larger(student, teacher)
    return (attention(student, p) - attention(teacher, p)).square().mean()


@register("at")
class AT(Objective):
    """Squared distance between spatial attention maps, summed over stages."""

    config = ATConfig
    provenance = "author-code"
    family = "features"
    source = "Zagoruyko and Komodakis, Attention Transfer, ICLR 2017 (arXiv 1612.03928)"
    mixable = True
    # The published 1000, a decade to either side; the paper's powers.
    search_space: ClassVar = {"weight": "loguniform(100, 10000)", "p": "uniform(1, 4)"}
    options: ATConfig

    def __init__(self, options: ATConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        self.pairs = pair_stages(setup, options.stages)
        check_positions(setup, self.pairs, "attention transfer")

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
        for s, t in self.pairs:
            total = total + attention_transfer(student.stages[s], teacher.stages[t], self.options.p)
        return {LOSS: total}
