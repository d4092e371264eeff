"""Neuron selectivity transfer: the two sets of channel maps as samples of one distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from kdray.experiment.bounds import NonNegative
from kdray.objectives.connectors import StagesConfig, check_positions, pair_stages, pool_larger
from kdray.objectives.contract import LOSS, Needs, Objective, Setup, StepInfo, Targets
from kdray.objectives.heads import unit
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs

POWERS = {"linear": 1, "polynomial": 2}


class NSTConfig(StagesConfig):
    """`kernel`: `polynomial` is (a . b)^2, `linear` is a . b. `stages`: see `StagesConfig`."""

    weight: NonNegative = 50.0
    kernel: Literal["polynomial", "linear"] = "polynomial"


def squared_mmd(student: Tensor, teacher: Tensor, power: int) -> Tensor:
    """Squared maximum mean discrepancy between the channels of two maps, mean over rows, kernel (a . b)^power.

    A channel is its places as a vector of unit length. student [n, C_s, H_s, W_s], teacher [n, C_t, H_t, W_t]; the
    larger is pooled first; scalar out, at least 0.
    """
    student, teacher = pool_larger(student, teacher)
    s, t = unit(student.flatten(2)), unit(teacher.flatten(2))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.transpose(1, 2)).pow(power).mean()

    return kernel(t, t) + kernel(s, s) - 2.0 * kernel(s, t)


@register("nst")
class NST(Objective):
    """Squared maximum mean discrepancy between the channels of student and teacher, summed over stages."""

    config = NSTConfig
    provenance = "author-code"
    family = "features"
    source = "Huang and Wang, Like What You Like: Neuron Selectivity Transfer, 2017 (arXiv 1707.01219)"
    options: NSTConfig

    def __init__(self, options: NSTConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        self.pairs = pair_stages(setup, options.stages)
        check_positions(setup, self.pairs, "neuron selectivity")

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
            total = total + squared_mmd(student.stages[s], teacher.stages[t], POWERS[self.options.kernel])
        return {LOSS: total}
