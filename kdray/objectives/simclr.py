"""SimCLR: contrast of the views of each image, without labels: what a teacher can be pretrained with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from kdray.experiment.bounds import Count, Positive
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
from kdray.objectives.contrast import label_contrast
from kdray.objectives.gather import own_rows
from kdray.objectives.heads import unit
from kdray.objectives.mlp import MLPHead
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class SimCLRConfig(ObjectiveConfig):
    """Options of `simclr`.

    - `temperature`: tau. `dim`: d of the embeddings.
    - `hidden`: hidden width of the projection head; None is the width of the pooled vector.
    - `gather`: contrast with the rows of the global batch or the worker's own.
    """

    temperature: Positive = 0.5
    dim: Count = 128
    hidden: Count | None = None
    gather: Gather = "global"


@register("simclr")
class SimCLR(Objective):
    """Contrast of the views of each image with all others (NT-Xent); trains a teacher without labels."""

    config = SimCLRConfig
    provenance = "paper"
    family = "teacher"
    source = "Chen et al., ICML 2020, arXiv 2002.05709, Eq. 1"
    # The paper's 0.5 on CIFAR-10 and 0.1 on ImageNet.
    search_space: ClassVar = {"temperature": "loguniform(0.1, 1)"}
    options: SimCLRConfig

    def __init__(self, options: SimCLRConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        width = setup.student.pooled_dim
        self.head = MLPHead(width, options.hidden or width, options.dim, options.gather)

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(teacher=False, min_views=2)

    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> dict[str, Tensor]:
        samples = len(targets.labels)
        # What belongs together is known by the place in the global batch: a sample that is drawn twice is two.
        places = torch.arange(samples, device=student.pooled.device) + own_rows(samples).start
        embeddings = unit(self.head(student.pooled))
        options = self.options
        return {LOSS: label_contrast([embeddings], places.repeat(targets.views), options.temperature, options.gather)}
