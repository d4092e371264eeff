"""Neuron selectivity transfer: the two sets of channel maps as samples of one distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

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

    A channel is its places as a vector of unit length. student [n, C_s, H_s, W_s], teacher [n, C_t, H_t, W_t]; power 1
    or 2; the larger map is pooled first; scalar out, at least 0.
    """
    student, teacher = pool_larger(student, teacher)
    s, t = unit(student.flatten(2)), unit(teacher.flatten(2))
    if power == 1:
        return (s.mean(dim=1) - t.mean(dim=1)).square().sum(dim=1).mean()
    if s.shape[2] < max(s.shape[1], t.shape[1]):
        # sum_cd (a_c . b_d)^2 is the product of the channels' second moments [P, P]: with wide maps of few places
        # (2048 channels, 4x4) the products of channels would be thousands of times larger.
        return (_moment(s) - _moment(t)).square().sum(dim=(1, 2)).mean()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.transpose(1, 2)).square().mean()

    return kernel(t, t) + kernel(s, s) - 2.0 * kernel(s, t)


def _moment(vectors: Tensor) -> Tensor:
    """Mean over channels of the outer product of a channel with itself: [n, C, P] -> [n, P, P]."""
    return vectors.transpose(1, 2) @ vectors / vectors.shape[1]


@register("nst")
class NST(Objective):
    """Squared maximum mean discrepancy between the channels of student and teacher, summed over stages."""

    config = NSTConfig
    provenance = "author-code"
    family = "features"
    source = "Huang and Wang, Like What You Like: Neuron Selectivity Transfer, 2017 (arXiv 1707.01219)"
    mixable = True
    # The published 50, a decade to either side.
    search_space: ClassVar = {"weight": "loguniform(5, 500)"}
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
