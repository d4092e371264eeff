"""Gradient relation contrastive distillation: the student's relations to anchors shall single out the teacher's own.

Reconstruction from CRCD (Zhu et al., CVPR 2021, arXiv 2103.16367), which relates features and gradients of the loss
with respect to features to anchors. Changed here: the gradient in closed form, normalised, projected without bias
(reference A4.1 says why), and negatives from the batch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdray.errors import ConfigError
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
from kdray.objectives.draws import draw, row_keys
from kdray.objectives.gather import gather_rows, own_rows
from kdray.objectives.heads import Projection, off_diagonal, unit
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import ModelInfo, Outputs

_ANCHORS = 3


class GradientRelationConfig(ObjectiveConfig):
    """Options of `clmkd.gradient_relation`.

    - `source`: relate `gradient`s, `feature`s, or `both` (the sum of two losses, as CRCD).
    - `anchors`: how many rows of the batch serve as anchors, or `batch` for all.
    - `temperature`: tau_g of the contrast. `gradient_temperature`: T_g, softens the softmax inside the gradient.
    - `negatives`: rows of a `different_class` than the query's, or `all` other rows.
    - `target`: `full` is softmax - onehot; `non_target` leaves the label's coordinate out of it.
    - `symmetric`: add the mirrored loss, with student anchors and the teacher's relation as the query.
    - `dim`: d of the projections. `gather`: negatives and anchors from the global batch or the worker's own.
    """

    source: Literal["gradient", "feature", "both"] = "gradient"
    anchors: Count | Literal["batch"] = 16
    temperature: Positive = 0.05
    gradient_temperature: Positive = 1.0
    negatives: Literal["different_class", "all"] = "different_class"
    target: Literal["full", "non_target"] = "full"
    symmetric: bool = False
    dim: Count = 128
    gather: Gather = "global"


def gradient_direction(
    logits: Tensor, labels: Tensor, weight: Tensor, temperature: float = 1.0, target: str = "full"
) -> Tensor:
    """Direction of the gradient of each row's own cross-entropy with respect to its pooled vector.

    g = W^T (softmax(z / T) - onehot(y)), unit length; logits [n, C], labels int64 [n], weight [C, d] -> [n, d].

    softmax - onehot = (1 - p_y) (q - onehot), q the softmax over the other classes, and unit length cancels the factor
    1 - p_y. So q - onehot is what is computed: it does not vanish, nor lose its digits, where the network is certain.
    `target="non_target"` leaves the onehot out.
    """
    own = F.one_hot(labels, logits.shape[1]).bool()
    others = (logits / temperature).masked_fill(own, -math.inf).softmax(dim=1)
    residual = others - own.to(others.dtype) if target == "full" else others
    return unit(residual @ weight)


def relation_contrast(
    query: Tensor,
    candidates: Tensor,
    anchors: Tensor,
    own: slice,
    anchor_rows: Tensor,
    allowed: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Sum over pairs (i, j) of the relation contrast, and the number of pairs (reference A4 (2)).

    -log [e^{s_iji} / (e^{s_iji} + sum_{k in N_ij} e^{s_ijk})], s_ijk = unit(query_i - a_j) . unit(candidate_k - a_j)
    / tau

    Args:
        query: [m, d], rows `own` of the batch in the one network's space.
        candidates: [n, d], all rows of the batch in the other's. anchors: [A, d], detached.
        anchor_rows: int64 [A], which rows of the batch the anchors are: no row is related to itself.
        allowed: bool [m, n], whether k may be a negative of i (k = i left out); k = j is left out here.

    Returns:
        two scalars; a pair counts when i is not j and N_ij is not empty. Memory: [A, n, d] and [A, m, n].
    """
    place = torch.arange(own.start, own.stop, device=query.device)
    relations = unit(query[None] - anchors[:, None])
    references = unit(candidates[None] - anchors[:, None])
    scores = relations @ references.transpose(1, 2) / temperature
    everyone = torch.arange(len(candidates), device=query.device)
    negative = allowed[None] & (everyone[None, :] != anchor_rows[:, None])[:, None]
    positive = scores.gather(2, place[None, :, None].expand(len(anchors), -1, 1)).squeeze(2)
    itself = (everyone[None, :] == place[:, None])[None]
    log_sum = scores.masked_fill(~(negative | itself), -math.inf).logsumexp(dim=2)
    pair = negative.any(dim=2) & (place[None, :] != anchor_rows[:, None])
    return torch.where(pair, log_sum - positive, 0.0).sum(), pair.sum()


@register("clmkd.gradient_relation")
class GradientRelation(Objective):
    """Contrast of relations between gradients (or features) and anchors (CLMKD's second module)."""

    config = GradientRelationConfig
    provenance = "reconstruction"
    family = "contrastive"
    source = "CLMKD (CAAI TIT 2025) from CRCD (arXiv 2103.16367)"
    options: GradientRelationConfig

    def __init__(self, options: GradientRelationConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        self.sources = ("gradient", "feature") if options.source == "both" else (options.source,)
        if "gradient" in self.sources:
            _check_head(setup.student, "student", setup.num_classes)
            _check_head(setup.teacher, "teacher", setup.num_classes)
        widths = setup.student.pooled_dim, setup.teacher.pooled_dim
        self.project_student, self.project_teacher = (
            nn.ModuleDict({source: Projection(width, options.dim, bias=False) for source in self.sources})
            for width in widths
        )

    @classmethod
    def needs(cls, options: GradientRelationConfig) -> Needs:
        return Needs(
            teacher_logits=options.source != "feature", teacher_pooled=options.source != "gradient", index=True
        )

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
        options, labels, rows = self.options, targets.row_labels, len(student.pooled)
        keys, whole = row_keys(targets.index, targets.views), options.gather == "global"
        own = own_rows(rows) if whole else slice(0, rows)
        all_labels, all_keys = (gather_rows(labels), gather_rows(keys)) if whole else (labels, keys)
        anchor_rows = self._anchors(all_keys, step)
        allowed = off_diagonal(rows, len(all_labels), own.start, labels.device)
        if options.negatives == "different_class":
            allowed = allowed & (labels[:, None] != all_labels[None, :])

        total, pairs = student.pooled.new_zeros(()), labels.new_zeros(())
        for source in self.sources:
            s = unit(self.project_student[source](self._rows(source, student, student_head, labels)))
            t = unit(self.project_teacher[source](self._rows(source, teacher, teacher_head, labels).detach()))
            all_t = gather_rows(t) if whole else t
            anchors = all_t.detach()[anchor_rows]
            value, pairs = relation_contrast(s, all_t, anchors, own, anchor_rows, allowed, options.temperature)
            total = total + value
            if options.symmetric:
                all_s = gather_rows(s) if whole else s
                anchors = all_s.detach()[anchor_rows]
                total = total + relation_contrast(t, all_s, anchors, own, anchor_rows, allowed, options.temperature)[0]
        # All terms have the same pairs. Divided by all workers' pairs, times the workers: the workers' mean is right.
        counts = gather_rows(pairs[None]) if whole else pairs[None]
        return {LOSS: total * len(counts) / counts.sum().clamp_min(1)}

    def _anchors(self, keys: Tensor, step: StepInfo) -> Tensor:
        """Rows of the batch that serve as anchors: those whose samples draw the smallest numbers at this step."""
        count = len(keys) if self.options.anchors == "batch" else min(self.options.anchors, len(keys))
        numbers = draw(keys, 1, seed=step.seed, step=step.step, tag=_ANCHORS)[:, 0]
        return numbers.topk(count, largest=False).indices

    def _rows(self, source: str, outputs: Outputs, head: nn.Linear | None, labels: Tensor) -> Tensor:
        if source == "feature":
            return unit(outputs.pooled)
        assert outputs.logits is not None and head is not None
        options, weight = self.options, head.weight.to(outputs.logits.dtype)
        return gradient_direction(outputs.logits, labels, weight, options.gradient_temperature, options.target)


def _check_head(model: ModelInfo, role: str, num_classes: int) -> None:
    if not model.linear_head or model.num_classes is None:
        problem = (
            f"the {role} {model.name} does not end in one Linear on its pooled vector, which the gradient is read from"
        )
        raise ConfigError(problem, where="source", fix="Set `source: feature`")
    if num_classes < 2:
        raise ConfigError("one class has no gradient to compare", where="source", fix="Set `source: feature`")
