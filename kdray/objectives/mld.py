"""Multi-level logit distillation: predictions at several temperatures, aligned by instance, batch and class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdray.experiment.bounds import NonNegative, Positive
from kdray.objectives.contract import Gather, Needs, Objective, ObjectiveConfig, StepInfo, Targets
from kdray.objectives.gather import gather_rows, own_rows
from kdray.objectives.registry import register
from kdray.objectives.standardise import comparable

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class MLDConfig(ObjectiveConfig):
    """Options of `mld`.

    - `temperatures`: every level is a sum over them.
    - `instance`, `batch`, `classes`: weights of the levels.
    - `select`: what the median of the teacher's confidence does to the terms of the first view. `mask` keeps the rows
      (instance, batch) and classes (class) at or below it; `scale` keeps all and multiplies by the share that is at or
      below it, which is what the released code computes.
    - `strong`: the levels that further views take part in: `instance`, or `all`; nothing is selected there.
    - `standardise`: of the instance level, as in `kd`.
    - `gather`: the rows that the batch and class levels and the medians see.
    """

    weight: NonNegative = 0.9
    temperatures: list[Positive] = Field(default=[4.0, 3.0, 5.0, 2.0, 6.0], min_length=1)
    instance: NonNegative = 1.0
    batch: NonNegative = 1.0
    classes: NonNegative = 1.0
    select: Literal["mask", "scale"] = "scale"
    strong: Literal["instance", "all"] = "instance"
    standardise: bool = False
    gather: Gather = "global"


def instance_level(student: Tensor, teacher: Tensor, temperatures: list[float], kept: Tensor) -> Tensor:
    """sum over T of T^2 * mean over rows of kept_i KL(teacher_i || student_i); logits [n, C], kept [n], scalar out."""
    total = student.new_zeros(())
    for temperature in temperatures:
        log_p, log_q = (F.log_softmax(logits / temperature, dim=1) for logits in (teacher, student))
        rows = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
        total = total + temperature**2 * (kept * rows).mean()
    return total


def batch_level(
    student: Tensor,
    teacher: Tensor,
    all_student: Tensor,
    all_teacher: Tensor,
    temperatures: list[float],
    kept: Tensor,
) -> Tensor:
    """sum over T of mean over rows i of kept_i * sum_j (p^s_i . p^s_j - p^t_i . p^t_j)^2.

    logits of the m own rows [m, C] and of all j [n, C]; kept [m]. With m = n and kept = 1: ||P_s P_s^T - P_t P_t^T||^2
    / n.
    """
    total = student.new_zeros(())
    for temperature in temperatures:
        own_s, own_t, s, t = (
            (one / temperature).softmax(dim=1) for one in (student, teacher, all_student, all_teacher)
        )
        total = total + (kept * (own_s @ s.T - own_t @ t.T).square().sum(dim=1)).mean()
    return total


def class_level(student: Tensor, teacher: Tensor, temperatures: list[float], kept: Tensor) -> Tensor:
    """sum over T of mean over classes c of kept_c * sum_d (sum_i p^s_ic p^s_id - p^t_ic p^t_id)^2; logits [n, C],
    kept [C]. With kept = 1: ||P_s^T P_s - P_t^T P_t||^2 / C."""
    total = student.new_zeros(())
    for temperature in temperatures:
        s, t = ((one / temperature).softmax(dim=1) for one in (student, teacher))
        total = total + (kept * (s.T @ s - t.T @ t).square().sum(dim=1)).mean()
    return total


def unsure(confidence: Tensor, select: Literal["mask", "scale"]) -> Tensor:
    """Which of `confidence` [n] are at or below its median, as 0 and 1 [n]; with `scale` their share, n times."""
    below = (confidence <= confidence.quantile(0.5)).to(confidence.dtype)
    return below if select == "mask" else below.mean().expand_as(below)


@register("mld")
class MLD(Objective):
    """Softened predictions aligned on three levels: by row, by the relations of rows, by the relations of classes."""

    config = MLDConfig
    provenance = "author-code"
    family = "logits"
    source = "Jin, Wang, Lin, CVPR 2023; Jin-Ying/Multi-Level-Logit-Distillation"
    mixable = True
    # The released 0.9 (6 to 9 with standardised logits); its levels beside the instance level's 1.
    search_space: ClassVar = {
        "weight": "loguniform(0.1, 10)",
        "batch": "loguniform(0.1, 10)",
        "classes": "loguniform(0.1, 10)",
    }
    options: MLDConfig

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(teacher_logits=True)

    def part_weights(self, step: StepInfo) -> dict[str, float]:
        return {"instance": self.options.instance, "batch": self.options.batch, "classes": self.options.classes}

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
        options, rows, further = self.options, len(targets.labels), targets.views - 1
        temperatures = options.temperatures
        (s, *strong_s), (t, *strong_t) = (one.split(rows) for one in (student.logits, teacher.logits))

        all_s, all_t, own = self._batch_of(s, t)
        confidence = all_t.softmax(dim=1)
        row_kept = unsure(confidence.amax(dim=1), options.select)[own]
        class_kept = unsure(confidence.sum(dim=0), options.select)
        instance = instance_level(*comparable(s, t, options.standardise), temperatures, row_kept)
        batch = batch_level(s, t, all_s, all_t, temperatures, row_kept)
        classes = class_level(all_s, all_t, temperatures, class_kept)
        all_rows, all_classes = torch.ones_like(row_kept), torch.ones_like(class_kept)
        for s, t in zip(strong_s, strong_t, strict=True):
            near = instance_level(*comparable(s, t, options.standardise), temperatures, all_rows)
            instance = instance + near / further
            if options.strong == "all":
                all_s, all_t, _ = self._batch_of(s, t)
                batch = batch + batch_level(s, t, all_s, all_t, temperatures, all_rows) / further
                classes = classes + class_level(all_s, all_t, temperatures, all_classes) / further
        return {"instance": instance, "batch": batch, "classes": classes}

    def _batch_of(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, slice]:
        """The rows that relations are of, for the own rows of one view, and where these stand among them."""
        if self.options.gather == "local":
            return student, teacher, slice(0, len(student))
        return gather_rows(student), gather_rows(teacher), own_rows(len(student))
