"""FitNet: the student's map regresses the teacher's at one stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from kdray.experiment.bounds import NonNegative
from kdray.objectives.connectors import Regressor, StagePair, pair_stages
from kdray.objectives.contract import LOSS, Needs, Objective, ObjectiveConfig, Setup, StepInfo, Targets
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class FitNetConfig(ObjectiveConfig):
    """`stage` at which the hint is given: a number (1 is the first stage, -1 the last) or a pair [student, teacher].

    Left out: the second of the stages that match from the deep end, the last four of each network at most. That is the
    hint layer 2 of the CIFAR-100 benchmarks. `relu`: whether the regressor ends in a ReLU, as the teacher's stage does.
    """

    weight: NonNegative = 100.0
    stage: StagePair | None = None
    relu: bool = True


@register("fitnet")
class FitNet(Objective):
    """Mean squared distance between the student's feature map, through a trained convolution, and the teacher's."""

    config = FitNetConfig
    provenance = "author-code"
    family = "features"
    source = "Romero et al., FitNets, ICLR 2015 (arXiv 1412.6550); form of RepDistiller and mdistiller"
    mixable = True
    # The published 100, a decade to either side.
    search_space: ClassVar = {"weight": "loguniform(10, 1000)"}
    options: FitNetConfig

    def __init__(self, options: FitNetConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        if options.stage is None:
            pairs = pair_stages(setup, None, "stage")
            self.pair = pairs[min(1, len(pairs) - 1)]
        else:
            (self.pair,) = pair_stages(setup, (options.stage,), "stage")
        shapes = setup.student.stage_shapes[self.pair[0]], setup.teacher.stage_shapes[self.pair[1]]
        self.regressor = Regressor(*shapes, relu=options.relu)

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
        s, t = self.pair
        return {LOSS: F.mse_loss(*self.regressor.meet(student.stages[s], teacher.stages[t]))}
