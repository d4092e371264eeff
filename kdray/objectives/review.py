"""ReviewKD: the student's deep stages are fused into its shallow ones, and each fusion meets a stage of the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdray.experiment.bounds import Count, NonNegative
from kdray.objectives.connectors import Conv, StagesConfig, check_preact, pair_stages
from kdray.objectives.contract import LOSS, Needs, Objective, Setup, StepInfo, Targets, WeightSchedule
from kdray.objectives.norm import BatchNorm
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs

LEVELS = (4, 2, 1)


class ReviewConfig(StagesConfig):
    """`student` and `teacher`: which side of the stages' activation is taken, `stages` (after) or `preact` (before).

    `hidden`: channels of the fused maps, by default the student's pooled width, 512 at most. `stages`: see
    `StagesConfig`.
    """

    weight: NonNegative = 5.0
    schedule: WeightSchedule = WeightSchedule(type="warmup", epochs=20)
    student: Literal["stages", "preact"] = "stages"
    teacher: Literal["stages", "preact"] = "preact"
    hidden: Count | None = None


def hierarchical_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of squared distances at full size and averaged to 4x4, 2x2 and 1x1, weighted 1, 1/2, 1/4, 1/8 (HCL).

    Levels as large as the map or larger are left out; the weights are divided by their sum. Maps [n, C, H, W], scalar.
    """
    total, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for level in LEVELS:
        if level < min(student.shape[-2:]):
            weight /= 2.0
            small_s, small_t = (F.adaptive_avg_pool2d(maps, level) for maps in (student, teacher))
            total = total + weight * F.mse_loss(small_s, small_t)
            weights += weight
    return total / weights


class Fusion(nn.Module):
    """One attention based fusion (ABF): the student's map and what came from the deeper stage, gated place by place."""

    def __init__(self, channels_s: int, channels_t: int, hidden: int, size: tuple[int, int], deepest: bool) -> None:
        super().__init__()
        self.size = size
        self.enter, self.enter_norm = Conv(channels_s, hidden, 1), BatchNorm(hidden)
        self.leave, self.leave_norm = Conv(hidden, channels_t, 3), BatchNorm(channels_t)
        self.gate = None if deepest else Conv(2 * hidden, 2, 1, bias=True)
        for conv in (self.enter, self.leave):
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(self, x: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """The map that meets the teacher's, and the fused one that goes on; both of the teacher's size."""
        x = self.enter_norm(self.enter(x))
        if self.gate is not None:
            assert deeper is not None
            deeper = _resized(deeper, (x.shape[-2], x.shape[-1]))
            gates = self.gate(torch.cat([x, deeper], dim=1)).sigmoid()
            x = x * gates[:, :1] + deeper * gates[:, 1:]
        x = _resized(x, self.size)
        return self.leave_norm(self.leave(x)), x


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The nearest place of the map for each place of another size."""
    return maps if tuple(maps.shape[-2:]) == size else F.interpolate(maps, size, mode="nearest")


@register("review")
class Review(Objective):
    """Knowledge review: fused student stages against teacher stages at four resolutions."""

    config = ReviewConfig
    provenance = "author-code"
    family = "features"
    source = "Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021 (arXiv 2104.09044)"
    mixable = True
    # Released weights are 0.6 to 8, by pair.
    search_space: ClassVar = {"weight": "loguniform(0.3, 20)"}
    options: ReviewConfig

    def __init__(self, options: ReviewConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        student, teacher = setup.student, setup.teacher
        self.pairs = pair_stages(setup, options.stages)
        if self.needs(options).preact:
            check_preact(setup, "teacher" if options.teacher == "preact" else "student")
        hidden = options.hidden or min(512, student.pooled_dim)
        fusions = [Fusion(student.pooled_dim, teacher.pooled_dim, hidden, (1, 1), deepest=True)]
        for s, t in reversed(self.pairs):
            width, height = teacher.stage_shapes[t][0], teacher.stage_shapes[t][1:]
            fusions.append(Fusion(student.stage_shapes[s][0], width, hidden, (height[0], height[1]), deepest=False))
        self.fusions = nn.ModuleList(fusions)

    @classmethod
    def needs(cls, options: ReviewConfig) -> Needs:
        sides = (options.student, options.teacher)
        return Needs(teacher_pooled=True, stages="stages" in sides, preact="preact" in sides)

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
        maps_s = student.stages if self.options.student == "stages" else student.preact
        maps_t = teacher.stages if self.options.teacher == "stages" else teacher.preact
        levels = [(student.pooled[:, :, None, None], teacher.pooled[:, :, None, None])]
        levels += [(maps_s[s], maps_t[t]) for s, t in reversed(self.pairs)]
        total, deeper = student.pooled.new_zeros(()), None
        for fusion, (own, target) in zip(self.fusions, levels, strict=True):
            out, deeper = fusion(own, deeper)
            total = total + hierarchical_distance(out, target)
        return {LOSS: total}
