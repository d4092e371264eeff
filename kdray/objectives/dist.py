"""DIST: correlations of predictions instead of their divergence, along the classes and along the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from kdray.experiment.bounds import NonNegative, Positive
from kdray.objectives.contract import Gather, Needs, Objective, ObjectiveConfig, StepInfo, Targets
from kdray.objectives.gather import gather_rows
from kdray.objectives.registry import register
from kdray.objectives.standardise import comparable

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs

EPS = 1e-8


class DISTConfig(ObjectiveConfig):
    """`beta` weighs the relations between classes (within a row), `gamma` those between rows (within a class);
    `temperature` T > 0 softens both sides; `standardise` as in `kd`; `gather`: the rows that a class's column has."""

    weight: NonNegative = 2.0
    temperature: Positive = 4.0
    beta: NonNegative = 1.0
    gamma: NonNegative = 1.0
    standardise: bool = False
    gather: Gather = "global"


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of every row of `x` with the same row of `y`: [n, m] each, [n] out.

    <x, y> / (|x| |y| + 1e-8) of the centred rows, as released. A row that is constant up to rounding has no direction:
    it correlates with nothing and gets no gradient.
    """
    (x, norm_x), (y, norm_y) = _centred(x), _centred(y)
    return (x * y).sum(dim=1) / (norm_x * norm_y + EPS)


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows less their mean, and their lengths; 0 and 0 where only rounding is left."""
    centred = x - x.mean(dim=1, keepdim=True)
    squares = centred.square().sum(dim=1, keepdim=True)
    rounding = 4 * torch.finfo(x.dtype).eps * torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True)
    varies = squares > rounding.square()
    norm = torch.where(varies, torch.where(varies, squares, 1.0).sqrt(), 0.0)
    return torch.where(varies, centred, 0.0), norm.squeeze(1)


@register("dist")
class DIST(Objective):
    """One minus Pearson's correlation of student and teacher: of each row's classes, and of each class's rows."""

    config = DISTConfig
    provenance = "author-code"
    family = "logits"
    source = "Huang et al., NeurIPS 2022, arXiv 2205.10536; hunto/DIST_KD"
    mixable = True
    # The released 2, T 4 on CIFAR and 1 on ImageNet; gamma beside beta 1.
    search_space: ClassVar = {
        "weight": "loguniform(0.5, 8)",
        "temperature": "loguniform(1, 8)",
        "gamma": "loguniform(0.3, 3)",
    }
    options: DISTConfig

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(teacher_logits=True)

    def part_weights(self, step: StepInfo) -> dict[str, float]:
        return {"inter": self.options.beta, "intra": self.options.gamma}

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
        s, t = (
            (logits / options.temperature).softmax(dim=1)
            for logits in comparable(student.logits, teacher.logits, options.standardise)
        )
        inter = 1.0 - correlation(s, t).mean()
        if options.gather == "global":
            s, t = gather_rows(s), gather_rows(t)
        intra = 1.0 - correlation(s.T, t.T).mean()
        return {"inter": options.temperature**2 * inter, "intra": options.temperature**2 * intra}
