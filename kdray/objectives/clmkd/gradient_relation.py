"""Gradient relation contrastive distillation: the student's relations to anchors shall single out the teacher's own.

Reconstruction from CRCD (Zhu et al., CVPR 2021, arXiv 2103.16367), which relates features and gradients of the loss
with respect to features to anchors. Changed here: the gradient in closed form, normalised, projected without bias
(reference A4.1 says why), and negatives from the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from kdray.experiment.bounds import BelowOne, Count, Positive
from kdray.objectives.bank import Bank
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
from kdray.objectives.draws import row_keys
from kdray.objectives.gather import gather_rows, own_rows
from kdray.objectives.heads import Projection, off_diagonal, unit
from kdray.objectives.registry import register
from kdray.objectives.relation import Anchors, anchor_rows, check_head, gradient_direction, inverse_norm
from kdray.objectives.sampling import ClassSampler
from kdray.objectives.sharded import BankKind, bytes_per_worker, make_bank

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class GradientRelationConfig(ObjectiveConfig):
    """Options of `clmkd.gradient_relation`.

    - `source`: relate `gradient`s, `feature`s, or `both` (the sum of two losses, as CRCD). Gradients are a function of
      the logits: alone they teach nothing that `kd` does not.
    - `anchors`: how many rows of the batch serve as anchors, or `batch` for all.
    - `temperature`: tau_g of the contrast. `gradient_temperature`: T_g, softens the softmax inside the gradient.
    - `negatives`: rows of a `different_class` than the query's, or `all` other rows.
    - `target`: `full` is softmax - onehot; `non_target` leaves the label's coordinate out of it.
    - `symmetric`: add the mirrored loss, with student anchors and the teacher's relation as the query.
    - `mode`: negatives are the rows of the batch (`inbatch`), or `bank_samples` draws from banks over the training set
      (`memory`), whose vectors follow the batches with `momentum`.
    - `bank`: whole on every worker (`replicated`), or an equal share of the samples on each (`sharded`).
    - `dim`: d of the projections. `gather`: negatives and anchors from the global batch or the worker's own.
    """

    source: Literal["gradient", "feature", "both"] = "both"
    anchors: Anchors = 16
    temperature: Positive = 0.05
    gradient_temperature: Positive = 1.0
    negatives: Literal["different_class", "all"] = "all"
    target: Literal["full", "non_target"] = "full"
    symmetric: bool = False
    mode: Literal["inbatch", "memory"] = "inbatch"
    bank_samples: Count = 512
    momentum: BelowOne = 0.5
    bank: BankKind = "replicated"
    dim: Count = 128
    gather: Gather = "global"


def relation_contrast(
    query: Tensor,
    candidates: Tensor,
    anchors: Tensor,
    place: Tensor,
    related: Tensor,
    negative: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Sum over pairs (i, j) of the relation contrast, and the number of pairs (reference A4 (2)).

    -log [e^{s_iji} / (e^{s_iji} + sum_{k in N_ij} e^{s_ijk})] with
    s_ijk = unit(query_i - a_j) . unit(candidate_k - a_j) / tau.

    Args:
        query: [m, d], in the one network's space. candidates: [n, d], in the other's. anchors: [A, d], detached.
        place: int64 [m], where the query's own sample stands among the candidates.
        related: bool [A, m], whether row i is related to anchor j: an anchor is not related to itself.
        negative: bool [A, m, n], N_ij; never the row itself.

    Returns:
        two scalars; a pair counts when it is related and N_ij is not empty. Memory: [A, n, d] and [A, m, n].
    """
    relations, references = query[None] - anchors[:, None], candidates[None] - anchors[:, None]
    # Lengths divide the products: unit vectors would cost several more passes over [A, n, d].
    scale = inverse_norm(relations)[:, :, None] * inverse_norm(references)[:, None, :]
    scores = relations @ references.transpose(1, 2) * scale / temperature
    positive = scores.gather(2, place[None, :, None].expand(len(anchors), -1, 1)).squeeze(2)
    itself = place[:, None] == torch.arange(len(candidates), device=place.device)
    log_sum = scores.masked_fill(~(negative | itself), -math.inf).logsumexp(dim=2)
    pair = related & negative.any(dim=2)
    return torch.where(pair, log_sum - positive, 0.0).sum(), pair.sum()


@register("clmkd.gradient_relation")
class GradientRelation(Objective):
    """Contrast of relations between gradients (or features) and anchors (CLMKD's second module)."""

    config = GradientRelationConfig
    provenance = "reconstruction"
    family = "contrastive"
    source = "CLMKD (CAAI TIT 2025) from CRCD (arXiv 2103.16367)"
    revision = 2  # 1 had gradients alone, with negatives of other classes
    # CRCD's 1 and tau 0.05.
    search_space: ClassVar = {
        "weight": "loguniform(0.01, 3)",
        "temperature": "loguniform(0.05, 0.5)",
        "gradient_temperature": "loguniform(1, 8)",
    }
    options: GradientRelationConfig

    @classmethod
    def searched(cls, options: GradientRelationConfig) -> Mapping[str, str]:
        unused = "gradient_temperature" if options.source == "feature" else None
        return {key: text for key, text in cls.search_space.items() if key != unused}

    def __init__(self, options: GradientRelationConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        self.sources = ("gradient", "feature") if options.source == "both" else (options.source,)
        if "gradient" in self.sources:
            check_head(setup.student, "student", setup.num_classes)
            check_head(setup.teacher, "teacher", setup.num_classes)
        widths = setup.student.pooled_dim, setup.teacher.pooled_dim
        self.project_student, self.project_teacher = (
            nn.ModuleDict({source: Projection(width, options.dim, bias=False) for source in self.sources})
            for width in widths
        )
        if options.mode == "memory":
            assert setup.labels is not None
            self.sampler = ClassSampler(setup.labels, setup.num_classes)
            self.banks = nn.ModuleDict(
                {name: make_bank(options.bank, setup.num_samples, options.dim) for name in _bank_names(options)}
            )

    @classmethod
    def needs(cls, options: GradientRelationConfig) -> Needs:
        return Needs(
            teacher_logits=options.source != "feature",
            teacher_pooled=options.source != "gradient",
            index=True,
            labels=options.mode == "memory",
        )

    @classmethod
    def bank_bytes(cls, options: GradientRelationConfig, setup: Setup) -> int:
        if options.mode == "inbatch":
            return 0
        one = bytes_per_worker(options.bank, setup.num_samples, options.dim, setup.workers)
        return len(_bank_names(options)) * one + ClassSampler.bytes(setup.num_samples)

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
        labels, whole = targets.row_labels, self.options.gather == "global"
        batch = self._batch(targets, step)
        total, pairs = student.pooled.new_zeros(()), labels.new_zeros(())
        for source in self.sources:
            s = unit(self.project_student[source](self._rows(source, student, student_head, labels)))
            t = unit(self.project_teacher[source](self._rows(source, teacher, teacher_head, labels).detach()))
            value, pairs = self._contrast(s, t, batch, f"{source}_teacher")
            total = total + value
            if self.options.symmetric:
                total = total + self._contrast(t, s, batch, f"{source}_student")[0]
        # All terms have the same pairs. Divided by all workers' pairs, times the workers: the workers' mean is right.
        counts = gather_rows(pairs[None]) if whole else pairs[None]
        return {LOSS: total * len(counts) / counts.sum().clamp_min(1)}

    def _batch(self, targets: Targets, step: StepInfo) -> _Batch:
        """Anchors, and who is a negative of whom."""
        options, labels, index = self.options, targets.row_labels, targets.row_index
        keys, own = row_keys(targets.index, targets.views), slice(0, len(labels))
        all_labels, all_index, all_keys = labels, index, keys
        if options.gather == "global":
            all_labels, all_index, all_keys = gather_rows(labels), gather_rows(index), gather_rows(keys)
            own = own_rows(len(labels))
        place = torch.arange(own.start, own.stop, device=labels.device)
        anchors = anchor_rows(all_keys, options.anchors, step)
        related = place[None, :] != anchors[:, None]
        if options.mode == "inbatch":
            allowed = off_diagonal(len(labels), len(all_labels), own.start, labels.device)
            is_anchor = torch.arange(len(all_labels), device=labels.device)[None, :] == anchors[:, None]
            candidate_labels, drawn = all_labels, None
        else:
            drawn, candidate_labels = self.sampler.uniform(options.bank_samples, seed=step.seed, step=step.step)
            allowed = index[:, None] != drawn[None, :]
            is_anchor = all_index[anchors][:, None] == drawn[None, :]
        if options.negatives == "different_class":
            allowed = allowed & (labels[:, None] != candidate_labels[None, :])
        return _Batch(place, anchors, related, allowed[None] & ~is_anchor[:, None], drawn, all_index)

    def _contrast(self, query: Tensor, other: Tensor, batch: _Batch, bank_name: str) -> tuple[Tensor, Tensor]:
        """Relations of `query` in the space of `other`, the other network's rows, which its bank then follows."""
        whole = self.options.gather == "global"
        rows = gather_rows(other) if whole else other
        anchors, temperature = rows.detach()[batch.anchors], self.options.temperature
        if batch.drawn is None:
            return relation_contrast(query, rows, anchors, batch.place, batch.related, batch.negative, temperature)
        bank = self.banks[bank_name]
        assert isinstance(bank, Bank)
        # Only a row's own place is read of the batch: it holds the positive.
        negative = torch.cat(
            [torch.zeros_like(batch.negative[:, :, :1]).expand(-1, -1, len(other)), batch.negative], dim=2
        )
        candidates = torch.cat([other, bank.read_common(batch.drawn).to(other.dtype)])
        place = batch.place - batch.place[0]
        result = relation_contrast(query, candidates, anchors, place, batch.related, negative, temperature)
        everyone = rows.detach() if whole else gather_rows(other.detach())
        bank.update(batch.all_index if whole else gather_rows(batch.all_index), everyone, self.options.momentum)
        return result

    def _rows(self, source: str, outputs: Outputs, head: nn.Linear | None, labels: Tensor) -> Tensor:
        if source == "feature":
            return unit(outputs.pooled)
        assert outputs.logits is not None and head is not None
        options, weight = self.options, head.weight.to(outputs.logits.dtype)
        return gradient_direction(outputs.logits, labels, weight, options.gradient_temperature, options.target)


@dataclass(frozen=True)
class _Batch:
    """Who is who in one step: `place` int64 [m], `anchors` int64 [A] among the rows, `related` bool [A, m], `negative`
    bool [A, m, n]; with banks, `drawn` int64 [n] samples and `all_index` the rows' samples."""

    place: Tensor
    anchors: Tensor
    related: Tensor
    negative: Tensor
    drawn: Tensor | None
    all_index: Tensor


def _bank_names(options: GradientRelationConfig) -> list[str]:
    sources = ("gradient", "feature") if options.source == "both" else (options.source,)
    networks = ("teacher", "student") if options.symmetric else ("teacher",)
    return [f"{source}_{network}" for source in sources for network in networks]
