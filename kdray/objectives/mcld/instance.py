"""Instance-wise contrastive logit distillation: the student's logits of an image shall single out the teacher's.

Reconstruction: InfoNCE between the rows of both networks' logits, one student row against N teacher rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kdray.experiment.bounds import Natural, Positive
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
from kdray.objectives.contrast import supervised_contrast
from kdray.objectives.draws import row_keys
from kdray.objectives.gather import gather_rows
from kdray.objectives.heads import unit
from kdray.objectives.mcld.queue import LogitQueue
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


def candidates_of(teacher: Tensor, gather: Gather, queue: LogitQueue | None) -> Tensor:
    """The teacher's logits of the local or global batch, then those of the queue: [m, C] -> [n, C]."""
    rows = gather_rows(teacher) if gather == "global" else teacher
    return rows if queue is None else torch.cat([rows, queue.logits.to(rows.dtype)])


def remember(queue: LogitQueue | None, teacher: Tensor, targets: Targets, step: StepInfo) -> None:
    """Push the batch's logits of the teacher [m, C]; after the loss, so that no row meets itself twice."""
    if queue is not None:
        keys = row_keys(targets.index, targets.views)
        queue.push(teacher, targets.row_labels, targets.row_index, keys, seed=step.seed, step=step.step)


@register("mcld.instance")
class Instance(Objective):
    """Student logits against N teacher logits, positive is the same image (MCLD's instance-wise term)."""

    config = InstanceConfig
    provenance = "reconstruction"
    family = "contrastive"
    source = "MCLD (arXiv 2411.10693), InfoNCE on logits; queue from MoCo (arXiv 1911.05722)"
    options: InstanceConfig

    def __init__(self, options: InstanceConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        self.queue = LogitQueue(options.queue, setup.num_classes) if options.queue else None

    @classmethod
    def needs(cls, options: InstanceConfig) -> Needs:
        return Needs(teacher_logits=True, index=True)

    @classmethod
    def takes_mixed(cls, options: InstanceConfig) -> bool:
        return options.mask == "none" and not options.queue  # masks and queue go by labels and row numbers

    @classmethod
    def bank_bytes(cls, options: InstanceConfig, setup: Setup) -> int:
        return LogitQueue.bytes(options.queue, setup.num_classes)

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
        candidates = candidates_of(teacher.logits, options.gather, self.queue)
        s, t = (unit(as_inputs(logits, options.inputs)) for logits in (student.logits, candidates))
        loss = supervised_contrast(s, t, positive, counted, options.temperature)
        remember(self.queue, teacher.logits, targets, step)
        return {LOSS: loss}
