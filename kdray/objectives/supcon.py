"""SupCon: supervised contrast in the batch, of one network's views or between student and teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

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
from kdray.objectives.contrast import MlpEmbed, label_contrast, supervised_contrast
from kdray.objectives.gather import gather_rows
from kdray.objectives.heads import Embed
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class SupConConfig(ObjectiveConfig):
    """Options of `supcon`.

    - `with_teacher`: contrast student with teacher; false contrasts the views of the trained network alone.
    - `pairs`: with a teacher, `joint` contrasts all rows of both networks with one another, `cross` the student's rows
      with the teacher's alone.
    - `head`: `linear`, or `mlp` (Linear, ReLU, Linear).
    - `temperature`: tau. `dim`: d of the embeddings.
    - `gather`: contrast with the rows of the global batch or the worker's own.
    """

    with_teacher: bool = True
    pairs: Literal["joint", "cross"] = "joint"
    head: Literal["linear", "mlp"] = "mlp"
    temperature: Positive = 0.07
    dim: Count = 128
    gather: Gather = "global"


@register("supcon")
class SupCon(Objective):
    """Supervised contrast: rows of one class attract each other, between student and teacher or among views."""

    config = SupConConfig
    provenance = "paper"
    family = "contrastive"
    source = "Khosla et al., NeurIPS 2020, arXiv 2004.11362, Eq. 2"
    # MLKD's 1 and tau 0.07; the paper's ImageNet runs take 0.1.
    search_space: ClassVar = {"weight": "loguniform(0.1, 3)", "temperature": "loguniform(0.05, 0.5)"}
    options: SupConConfig

    def __init__(self, options: SupConConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        head = MlpEmbed if options.head == "mlp" else Embed
        self.embed_student = head(setup.student.pooled_dim, options.dim)
        if options.with_teacher:
            assert setup.teacher is not None
            self.embed_teacher = head(setup.teacher.pooled_dim, options.dim)

    @classmethod
    def needs(cls, options: SupConConfig) -> Needs:
        # Alone, a row whose class has no other row still needs a positive: another view of its sample.
        views = 1 if options.with_teacher else 2
        return Needs(teacher=options.with_teacher, teacher_pooled=options.with_teacher, min_views=views)

    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> dict[str, Tensor]:
        options, labels, u = self.options, targets.row_labels, self.embed_student(student.pooled)
        if not options.with_teacher:
            return {LOSS: label_contrast([u], labels, options.temperature, options.gather)}
        assert teacher is not None
        v = self.embed_teacher(teacher.pooled)
        if options.pairs == "joint":
            return {LOSS: label_contrast([u, v], labels, options.temperature, options.gather)}
        everyone, all_labels = v, labels
        if options.gather == "global":
            everyone, all_labels = gather_rows(v), gather_rows(labels)
        same = labels[:, None] == all_labels[None, :]  # a row's own sample among them
        return {LOSS: supervised_contrast(u, everyone, same, torch.ones_like(same), options.temperature)}
