"""OFD: the teacher's maps before their ReLU, of which only what the ReLU lets through must be matched exactly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kdray.experiment.bounds import Count, NonNegative
from kdray.objectives.connectors import Conv, StagesConfig, check_preact, pair_stages, pool_larger
from kdray.objectives.contract import LOSS, Needs, Objective, Setup, StepInfo, Targets
from kdray.objectives.gather import sum_over_workers
from kdray.objectives.norm import BatchNorm
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class OFDConfig(StagesConfig):
    """`margin_batches`: over how many global batches the margins are estimated; after that they stay.

    `decay` in (0, 1]: a stage counts `decay` times as much as the next deeper one. `stages`: see `StagesConfig`.
    """

    weight: NonNegative = 1e-3
    margin_batches: Count = 100
    decay: Annotated[float, Field(gt=0, le=1)] = 0.5


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Sum over channels and places, mean over rows, of (s - max(t, m))^2 where s > max(t, m) or t > 0.

    Where the teacher's ReLU blocks, the student may be as low as it likes. Maps [n, C, H, W], margin [C], scalar out.
    """
    target = torch.maximum(teacher, margin[None, :, None, None])
    counts = (student > target) | (target > 0)
    return torch.where(counts, (student - target).square(), 0.0).sum() / len(student)


class Margin(nn.Module):
    """E[x | x < 0] for every channel of a stage, from the pre-activations themselves.

    Buffers: `below` float32 [C], mean of min(x, 0); `share` float32 [C], share of places below 0; `batches` int64, how
    many global batches both are the mean of. `below / share` is the margin, 0 for a channel never seen below 0. The
    first step has the estimate of its own batch.
    """

    below: Tensor
    share: Tensor
    batches: Tensor

    def __init__(self, channels: int, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("below", torch.zeros(channels))
        self.register_buffer("share", torch.zeros(channels))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, maps: Tensor) -> Tensor:
        """Take [n, C, H, W] into the estimate, unless it is finished; the margin float [C]."""
        places = maps.numel() // maps.shape[1]
        seen = torch.stack([maps.clamp_max(0).sum(dim=(0, 2, 3)), (maps < 0).to(maps.dtype).sum(dim=(0, 2, 3))])
        total, workers = sum_over_workers(seen)
        now = total / (places * workers)
        rate = torch.where(self.batches < self.limit, 1.0 / (self.batches + 1), 0.0)
        # In place, and without asking for `batches`: that would wait for the device.
        self.below += (rate * (now[0] - self.below)).to(self.below.dtype)
        self.share += (rate * (now[1] - self.share)).to(self.share.dtype)
        self.batches += (self.batches < self.limit).to(self.batches.dtype)
        return torch.where(self.share > 0, self.below / self.share.clamp_min(1e-30), 0.0).to(maps.dtype)


class Connector(nn.Module):
    """1x1 convolution and batch norm from the student's channels to the teacher's."""

    def __init__(self, channels_s: int, channels_t: int) -> None:
        super().__init__()
        self.conv, self.norm = Conv(channels_s, channels_t, 1), BatchNorm(channels_t)
        nn.init.normal_(self.conv.weight, 0.0, math.sqrt(2.0 / channels_t))

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.conv(maps))


@register("ofd")
class OFD(Objective):
    """Partial squared distance of maps before the ReLU, the teacher's cut off at a margin below 0."""

    config = OFDConfig
    provenance = "paper"
    family = "features"
    source = "Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019 (arXiv 1904.01866)"
    mixable = True
    # Released: 0.001, 0.0001 on ImageNet; a stage counts half as much as the next.
    search_space: ClassVar = {"weight": "loguniform(0.0001, 0.01)", "decay": "uniform(0.25, 1)"}
    options: OFDConfig

    def __init__(self, options: OFDConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        self.pairs = pair_stages(setup, options.stages)
        check_preact(setup, "stages")
        widths = [(setup.student.stage_shapes[s][0], setup.teacher.stage_shapes[t][0]) for s, t in self.pairs]
        self.connectors = nn.ModuleList(Connector(*width) for width in widths)
        self.margins = nn.ModuleList(Margin(width[1], options.margin_batches) for width in widths)

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(preact=True)

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
        for number, (s, t) in enumerate(self.pairs):
            margin = self.margins[number](teacher.preact[t])
            own, target = pool_larger(student.preact[s], teacher.preact[t])
            share = self.options.decay ** (len(self.pairs) - 1 - number)
            total = total + share * partial_distance(self.connectors[number](own), target, margin)
        return {LOSS: total}
