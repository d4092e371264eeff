"""Category-wise contrastive logit distillation: a class's scores over the batch shall single out the teacher's.

Reconstruction: InfoNCE between the columns of both networks' logits; centred, a positive's cosine is DIST's intra-class
Pearson correlation (Huang et al., NeurIPS 2022).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdray.experiment.bounds import Positive
from kdray.objectives.contract import (
    LOSS,
    Gather,
    Needs,
    Objective,
    ObjectiveConfig,
    StepInfo,
    Targets,
    WeightSchedule,
)
from kdray.objectives.gather import gather_rows
from kdray.objectives.heads import unit
from kdray.objectives.mcld.rows import Inputs, as_inputs
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class CategoryConfig(ObjectiveConfig):
    """Options of `mcld.category`.

    - `temperature`: tau_c. `inputs`: as in `mcld.instance`.
    - `centre`: take each column's mean over the batch off first.
    - `classes`: anchors are `all` classes, or those `present` in the batch; candidates are always all of them.
    - `gather`: columns over the global batch or the worker's own.

    `schedule` defaults to a linear warm-up over 20 epochs.
    """

    schedule: WeightSchedule = WeightSchedule(type="warmup", epochs=20.0)
    temperature: Positive = 0.1
    centre: bool = False
    classes: Literal["all", "present"] = "all"
    inputs: Inputs = "logits"
    gather: Gather = "global"


def columns(scores: Tensor, centre: bool) -> Tensor:
    """The columns of scores [n, C] as unit rows [C, n], centred on request; what has no length becomes 0.

    A column that is constant but for rounding has no direction either once its mean is off.
    """
    x = scores.T
    if not centre:
        return unit(x)
    centred = x - x.mean(dim=1, keepdim=True)
    rounding = 4 * torch.finfo(x.dtype).eps * torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True)
    spread = torch.linalg.vector_norm(centred.detach(), dim=1, keepdim=True) > rounding
    return unit(torch.where(spread, centred, 0.0))


def category_contrast(student: Tensor, teacher: Tensor, anchor: Tensor, temperature: float) -> Tensor:
    """Mean over anchor classes c of -log softmax_d(q_cd / tau) at d = c, q_cd = student_c . teacher_d.

    student, teacher [C, n], unit rows; anchor bool [C], at least one of them.
    """
    log_p = F.log_softmax(student @ teacher.T / temperature, dim=1).diagonal()
    share = anchor.to(log_p.dtype)
    return -(share * log_p).sum() / share.sum()


@register("mcld.category")
class Category(Objective):
    """Student classes against all teacher classes, as columns of the logits (MCLD's category-wise term)."""

    config = CategoryConfig
    provenance = "reconstruction"
    family = "contrastive"
    source = "MCLD (arXiv 2411.10693), InfoNCE on columns of logits; centring from DIST (arXiv 2205.10536)"
    # As `mcld.instance`.
    search_space: ClassVar = {"weight": "loguniform(0.5, 10)", "temperature": "loguniform(0.05, 0.5)"}
    options: CategoryConfig

    @classmethod
    def needs(cls, options: CategoryConfig) -> Needs:
        return Needs(teacher_logits=True)

    @classmethod
    def takes_mixed(cls, options: CategoryConfig) -> bool:
        return options.classes == "all"  # else the labels say which

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
        s, t, labels = student.logits, teacher.logits, targets.row_labels
        if options.gather == "global":
            s, t, labels = gather_rows(s), gather_rows(t), gather_rows(labels)
        classes = torch.arange(s.shape[1], device=labels.device)
        present = (labels[:, None] == classes).any(dim=0)
        anchor = present if options.classes == "present" else torch.ones_like(present)
        s, t = (columns(as_inputs(logits, options.inputs), options.centre) for logits in (s, t))
        return {LOSS: category_contrast(s, t, anchor, options.temperature)}
