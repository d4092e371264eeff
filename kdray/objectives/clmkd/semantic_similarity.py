"""Semantic similarity distillation: how alike the samples are to the student as to the teacher.

Reconstruction, and the least certain part of it: the name alone is published, so each known form is an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from kdray.experiment.bounds import BelowOne, Count, NonNegative, Positive
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
from kdray.objectives.gather import gather_rows, own_rows
from kdray.objectives.heads import HIDDEN, Projection, off_diagonal, unit
from kdray.objectives.registry import register
from kdray.objectives.similarity import similarity_kl
from kdray.objectives.sp import similarity_preserving

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class SemanticSimilarityConfig(ObjectiveConfig):
    """Options of `clmkd.semantic_similarity`.

    - `form`: `gram_kl` (distributions over the batch), `sp` (similarity preserving), `centroid_kl` (distributions over
      class centroids), `align` (cosine to the teacher's vector through an MLP).
    - `weight`: by default 10, 3000, 1, 20 in that order. `temperature`: 0.5 for gram_kl, 0.07 for centroid_kl, else
      unused.
    - `maps`: `sp` on the last stage's feature map, flattened, as its paper has it, instead of the pooled vector.
    - `momentum` of the centroids; `hidden` width of the MLP (default: the teacher's pooled width).
    - `gather`: `gram_kl` and `sp` compare with the global batch or the worker's own. The other two forms compare no
      rows;
      centroids always take the rows of all workers.
    """

    defaults_by_form: ClassVar[dict[str, dict[str, float]]] = {
        "gram_kl": {"weight": 10.0, "temperature": 0.5},
        "sp": {"weight": 3000.0, "temperature": 0.5},
        "centroid_kl": {"weight": 1.0, "temperature": 0.07},
        "align": {"weight": 20.0, "temperature": 0.5},
    }

    form: Literal["gram_kl", "sp", "centroid_kl", "align"] = "gram_kl"
    weight: NonNegative = 10.0
    temperature: Positive = 0.5
    maps: bool = False
    momentum: BelowOne = 0.9
    hidden: Count | None = None
    gather: Gather = "global"

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_form(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        form = value.get("form", cls.model_fields["form"].default)
        given = {key: one for key, one in value.items() if one is not None or key not in ("weight", "temperature")}
        return cls.defaults_by_form.get(str(form), {}) | given


def centroid_kl(
    student: Tensor,
    teacher: Tensor,
    student_centroids: Tensor,
    teacher_centroids: Tensor,
    seen: Tensor,
    temperature: float,
) -> Tensor:
    """Mean over rows of KL(softmax_c(t_i . c^t_c / tau) || softmax_c(s_i . c^s_c / tau)) over the `seen` classes.

    student [m, d_s], teacher [m, d_t], any length; centroids [C, d_s], [C, d_t], unit, detached; seen bool [C].
    """

    def log_p(rows: Tensor, centroids: Tensor) -> Tensor:
        logits = unit(rows) @ centroids.to(rows.dtype).T / temperature
        return F.log_softmax(logits.masked_fill(~seen, HIDDEN), dim=1)

    return F.kl_div(
        log_p(student, student_centroids), log_p(teacher, teacher_centroids), reduction="batchmean", log_target=True
    )


@register("clmkd.semantic_similarity")
class SemanticSimilarity(Objective):
    """Similarities between samples, kept from teacher to student in one of four forms (CLMKD's third module)."""

    config = SemanticSimilarityConfig
    provenance = "reconstruction"
    family = "relational"
    source = "CLMKD (CAAI TIT 2025) from MLKD (arXiv 2012.00573), SP (arXiv 1907.09682), CRCKD (arXiv 2107.03225)"
    # MLKD's 50 (20 on ImageNet) at tau 0.5; SP's 3000; CRCKD's 1 at tau 0.07; MLKD's 10 or 20 for its alignment.
    spaces_by_form: ClassVar[dict[str, dict[str, str]]] = {
        "gram_kl": {"weight": "loguniform(1, 100)", "temperature": "loguniform(0.1, 1)"},
        "sp": {"weight": "loguniform(300, 10000)"},
        "centroid_kl": {"weight": "loguniform(0.1, 10)", "temperature": "loguniform(0.05, 0.2)"},
        "align": {"weight": "loguniform(1, 60)"},
    }
    search_space: ClassVar = spaces_by_form["gram_kl"]
    options: SemanticSimilarityConfig

    student_centroids: Tensor
    teacher_centroids: Tensor
    seen: Tensor

    @classmethod
    def searched(cls, options: SemanticSimilarityConfig) -> Mapping[str, str]:
        return cls.spaces_by_form[options.form]

    def __init__(self, options: SemanticSimilarityConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        width_s, width_t = setup.student.pooled_dim, setup.teacher.pooled_dim
        if options.form == "align":
            hidden = options.hidden or width_t
            # No batch norm inside, unlike MLKD's head: statistics of one worker's rows would differ from the batch's.
            self.mlp = nn.Sequential(Projection(width_s, hidden), nn.ReLU(), Projection(hidden, width_t))
        if options.form == "centroid_kl":
            self.register_buffer("student_centroids", torch.zeros(setup.num_classes, width_s))
            self.register_buffer("teacher_centroids", torch.zeros(setup.num_classes, width_t))
            self.register_buffer("seen", torch.zeros(setup.num_classes, dtype=torch.bool))

    @classmethod
    def needs(cls, options: SemanticSimilarityConfig) -> Needs:
        maps = options.form == "sp" and options.maps
        return Needs(teacher_pooled=not maps, stages=maps)

    @classmethod
    def takes_mixed(cls, options: SemanticSimilarityConfig) -> bool:
        return options.form != "centroid_kl"  # centroids are means over the labels

    @classmethod
    def bank_bytes(cls, options: SemanticSimilarityConfig, setup: Setup) -> int:
        if options.form != "centroid_kl" or setup.teacher is None:
            return 0
        return setup.num_classes * (4 * (setup.student.pooled_dim + setup.teacher.pooled_dim) + 1)

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
        options = self.options
        if options.form == "align":
            return {LOSS: (1.0 - (unit(self.mlp(student.pooled)) * unit(teacher.pooled)).sum(dim=1)).mean()}
        if options.form == "centroid_kl":
            return {LOSS: self._centroid_kl(student.pooled, teacher.pooled, targets.row_labels)}
        s, t = student.pooled, teacher.pooled
        if options.form == "sp" and options.maps:
            s, t = student.stages[-1].flatten(1), teacher.stages[-1].flatten(1)
        own, all_s, all_t = slice(0, len(s)), s, t
        if options.gather == "global":
            own, all_s, all_t = own_rows(len(s)), gather_rows(s), gather_rows(t)
        if options.form == "sp":
            return {LOSS: similarity_preserving(s, t, all_s, all_t)}
        other = off_diagonal(len(s), len(all_s), own.start, s.device)
        return {LOSS: similarity_kl(s, t, all_s, all_t, options.temperature, other)}

    def _centroid_kl(self, s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        members = F.one_hot(gather_rows(labels), len(self.seen)).to(s.dtype).T
        self._move(self.student_centroids, members, gather_rows(s.detach()))
        self._move(self.teacher_centroids, members, gather_rows(t))
        self.seen |= members.any(dim=1)
        # A later step moves the centroids in place; this one's graph keeps its own.
        return centroid_kl(
            s, t, self.student_centroids.clone(), self.teacher_centroids, self.seen, self.options.temperature
        )

    @torch.no_grad()
    def _move(self, centroids: Tensor, members: Tensor, rows: Tensor) -> None:
        """c <- unit(m c + (1 - m) mean of the unit rows of class c) where the batch has the class; all start at 0.

        members [C, n] of 0 and 1; rows [n, d], those of all workers. A matrix product and no scatter, whose sums would
        come in any order on a GPU: all workers get equal bits.
        """
        counts = members.sum(dim=1, keepdim=True)
        mean = members @ unit(rows) / counts.clamp_min(1.0)
        old, momentum = centroids.to(rows.dtype), self.options.momentum
        centroids.copy_(torch.where(counts > 0, unit(momentum * old + (1.0 - momentum) * mean), old))
