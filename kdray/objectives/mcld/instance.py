"""Instance-wise contrastive logit distillation: the student's logits of an image shall single out the teacher's.

Reconstruction: InfoNCE between the rows of both networks' logits, one student row against N teacher rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from kdray.experiment.bounds import Natural, Positive
from kdray.objectives.contract import (
    LOSS,
    Gather,
    ObjectiveConfig,
    StepInfo,
    Targets,
)
from kdray.objectives.contrast import supervised_contrast
from kdray.objectives.heads import unit
from kdray.objectives.mcld.queue import QueuedObjective
from kdray.objectives.mcld.rows import Inputs, Mask, Rows, as_inputs
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class InstanceConfig(ObjectiveConfig):
    """Options of `mcld.instance`.

    - `temperature`: tau. `inputs`: raw logits, softmax `probabilities`, or rows `standardised` over the classes.
    - `mask`: rows of the anchor's class are negatives like all others (`none`), are left out (`exclude`), or are
      further positives (`multi_positive`).
    - `queue`: how many of the teacher's latest logits are candidates beside the batch; 0 for none.
    - `gather`: candidates from the global batch or the worker's own. A queue always takes the rows of all workers.
    """

    temperature: Positive = 0.1
    mask: Mask = "exclude"
    queue: Natural = 0
    inputs: Inputs = "logits"
    gather: Gather = "global"


@register("mcld.instance")
class Instance(QueuedObjective):
    """Student logits against N teacher logits, positive is the same image (MCLD's instance-wise term)."""

    config = InstanceConfig
    provenance = "reconstruction"
    family = "contrastive"
    source = "MCLD (arXiv 2411.10693), InfoNCE on logits; queue from MoCo (arXiv 1911.05722)"
    # For tau up to 0.5, where cosines leave a loss to lower; CKD's weights of 10 to 100 belong to tau 1.
    search_space: ClassVar = {"weight": "loguniform(0.5, 10)", "temperature": "loguniform(0.05, 0.5)"}
    options: InstanceConfig

    @classmethod
    def takes_mixed(cls, options: InstanceConfig) -> bool:
        return options.mask == "none" and not options.queue  # masks and queue go by labels and row numbers

    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> dict[str, Tensor]:
        assert teacher is not None and student.logits is not None and teacher.logits is not None
        options = self.options
        positive, counted = Rows.of(targets, options.gather, self.queue).target_mask(options.mask)
        everyone = self.candidates(teacher.logits)
        s, t = (unit(as_inputs(logits, options.inputs)) for logits in (student.logits, everyone))
        loss = supervised_contrast(s, t, positive, counted, options.temperature)
        self.remember(teacher.logits, targets, step)
        return {LOSS: loss}
