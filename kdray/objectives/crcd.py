"""CRCD: complementary relation contrastive distillation, on relations between samples and anchors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from kdray.experiment.bounds import BelowOne, Count, Positive
from kdray.objectives.bank import Bank
from kdray.objectives.contract import Needs, Objective, ObjectiveConfig, Setup, StepInfo, Targets
from kdray.objectives.draws import row_keys
from kdray.objectives.gather import gather_rows
from kdray.objectives.heads import Projection, unit
from kdray.objectives.nce import expect_z, log_partition_of_sums, noise_contrast
from kdray.objectives.registry import register
from kdray.objectives.relation import Anchors, anchor_rows, check_head, gradient_direction, inverse_norm
from kdray.objectives.sampling import ClassSampler
from kdray.objectives.sharded import BankKind, bytes_per_worker, make_bank

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs

_CHUNK_BYTES = 1 << 27
_SHORT = 1e-6
"""Squared length under which the distance of two stored unit vectors is lost in rounding: it counts as none."""


class CRCDConfig(ObjectiveConfig):
    """Options of `crcd`.

    - `source`: relate `feature`s, `gradient`s of the cross-entropy, or `both`, the latter with `gradient_weight`.
    - `anchors`: how many rows of the batch serve as anchors, or `batch` for all.
    - `bank_samples`: K negatives per row. `negatives`: of a `different_class` than the row's, or `all` but itself.
    - `temperature`: tau. `gradient_temperature`: T_g, softens the softmax inside the gradient.
    - `dim`: d of the embeddings. `momentum` m of the banks.
    - `bank`: whole on every worker (`replicated`), or an equal share of the samples on each (`sharded`).
    """

    source: Literal["feature", "gradient", "both"] = "both"
    gradient_weight: Positive = 1.0
    anchors: Anchors = 16
    bank_samples: Count = 500
    negatives: Literal["different_class", "all"] = "different_class"
    temperature: Positive = 0.05
    gradient_temperature: Positive = 1.0
    dim: Count = 128
    momentum: BelowOne = 0.5
    bank: BankKind = "replicated"


def relation_scores(rows: Tensor, vectors: Tensor, anchors: Tensor) -> Tensor:
    """unit(row_i - a_j) . unit(m_ik - a_j): rows [n, d], vectors [n, K, d], anchors [A, d] -> [n, A, K].

    `vectors` and `anchors` are unit vectors without gradient. The relations of the vectors are [n, A, K, d] and never
    made: their products and lengths follow from the products of the vectors themselves.
    """
    relations = rows[:, None] - anchors[None]
    stored = vectors.transpose(1, 2)
    products = relations @ stored - (relations * anchors[None]).sum(dim=2, keepdim=True)
    squares = vectors.square().sum(dim=2)[:, None, :] + anchors.square().sum(dim=1)[None, :, None]
    squares = squares - 2.0 * (anchors @ stored)
    lengths = torch.where(squares > _SHORT, squares.clamp_min(_SHORT).rsqrt(), 0.0)
    return products * lengths * inverse_norm(relations)[:, :, None]


@register("crcd")
class CRCD(Objective):
    """Noise contrast of relations (sample against anchor) of features and of gradients, with memory banks."""

    config = CRCDConfig
    provenance = "paper"
    family = "contrastive"
    source = "Zhu et al., CVPR 2021, arXiv 2103.16367"
    # The published 1 and tau 0.05.
    search_space: ClassVar = {
        "weight": "loguniform(0.05, 3)",
        "temperature": "loguniform(0.05, 0.5)",
        "gradient_temperature": "loguniform(1, 8)",
    }
    options: CRCDConfig

    log_z: Tensor
    z_known: bool

    @classmethod
    def searched(cls, options: CRCDConfig) -> Mapping[str, str]:
        unused = "gradient_temperature" if options.source == "feature" else None
        return {key: text for key, text in cls.search_space.items() if key != unused}

    def __init__(self, options: CRCDConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None and setup.labels is not None
        self.sources = ("feature", "gradient") if options.source == "both" else (options.source,)
        if "gradient" in self.sources:
            check_head(setup.student, "student", setup.num_classes)
            check_head(setup.teacher, "teacher", setup.num_classes)
        # Without bias: one that all rows share would drown what tells gradients apart.
        self.embed_student, self.embed_teacher = (
            nn.ModuleDict({source: Projection(width, options.dim, bias=False) for source in self.sources})
            for width in (setup.student.pooled_dim, setup.teacher.pooled_dim)
        )
        self.sampler = ClassSampler(setup.labels, setup.num_classes)
        names = [f"{source}_{network}" for source in self.sources for network in ("student", "teacher")]
        self.banks = nn.ModuleDict({name: make_bank(options.bank, setup.num_samples, options.dim) for name in names})
        expect_z(self, len(names))

    @classmethod
    def needs(cls, options: CRCDConfig) -> Needs:
        gradient, feature = options.source != "feature", options.source != "gradient"
        return Needs(teacher_logits=gradient, teacher_pooled=feature, index=True, labels=True)

    @classmethod
    def bank_bytes(cls, options: CRCDConfig, setup: Setup) -> int:
        banks = 4 if options.source == "both" else 2
        one = bytes_per_worker(options.bank, setup.num_samples, options.dim, setup.workers)
        return banks * one + ClassSampler.bytes(setup.num_samples)

    def part_weights(self, step: StepInfo) -> dict[str, float]:
        weights = {"feature": 1.0, "gradient": self.options.gradient_weight}
        return {source: weights[source] for source in self.sources}

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
        index, labels = targets.row_index, targets.row_labels
        keys = row_keys(targets.index, targets.views)
        everyone = gather_rows(index)
        anchors = everyone[anchor_rows(gather_rows(keys), self.options.anchors, step)]
        drawn, filled = self._drawn(targets, keys, step)
        pairs = gather_rows((index[:, None] != anchors[None, :]).sum()[None])
        # Divided by the pairs of all workers, times the workers: the workers' mean is right.
        share = len(pairs) / pairs.sum().clamp_min(1)
        directions, moves = [], []
        for source in self.sources:
            u = unit(self.embed_student[source](self._rows(source, student, student_head, labels)))
            v = unit(self.embed_teacher[source](self._rows(source, teacher, teacher_head, labels).detach()))
            banks = self._bank(f"{source}_teacher"), self._bank(f"{source}_student")
            directions += [(u, banks[0]), (v, banks[1])]
            moves += [(u, banks[1]), (v, banks[0])]
        if not self.z_known:
            self._fix_z(directions, anchors, drawn, filled)
        values = [
            self._estimate(rows, bank, log_z, anchors, drawn, filled) * share
            for (rows, bank), log_z in zip(directions, self.log_z, strict=True)
        ]
        for rows, bank in moves:
            bank.update(everyone, gather_rows(rows.detach()), self.options.momentum)
        return {source: values[2 * i] + values[2 * i + 1] for i, source in enumerate(self.sources)}

    def _drawn(self, targets: Targets, keys: Tensor, step: StepInfo) -> tuple[Tensor, Tensor]:
        """Samples that rows are compared with, their own first, int64 [n, 1 + K], and which are there, bool alike."""
        index, labels, count = targets.row_index, targets.row_labels, self.options.bank_samples
        where = {"seed": step.seed, "step": step.step}
        if self.options.negatives == "all":
            negatives, exist = self.sampler.others(index, labels, keys, count, **where)
        else:
            negatives, exist = self.sampler.negatives(labels, keys, count, **where)
        drawn = torch.cat([index[:, None], negatives], dim=1)
        return drawn, torch.cat([torch.ones_like(exist), exist.expand_as(negatives)], dim=1)

    def _rows(self, source: str, outputs: Outputs, head: nn.Linear | None, labels: Tensor) -> Tensor:
        if source == "feature":
            return unit(outputs.pooled)
        assert outputs.logits is not None and head is not None
        weight = head.weight.to(outputs.logits.dtype)
        return gradient_direction(outputs.logits, labels, weight, self.options.gradient_temperature)

    def _bank(self, name: str) -> Bank:
        bank = self.banks[name]
        assert isinstance(bank, Bank)
        return bank

    def _scores(
        self, rows: Tensor, bank: Bank, anchors: Tensor, drawn: Tensor, filled: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Scores [c, A, 1 + K] over tau and which count, in pieces of as many rows as 128 MiB hold.

        A relation of a sample to itself as an anchor has no direction: neither such a pair nor such a negative counts.
        """
        vectors = bank.read_common(anchors).to(rows.dtype)
        size = max(1, _CHUNK_BYTES // (4 * drawn.shape[1] * max(rows.shape[1] * bank.workers, 4 * len(anchors))))
        for some, where, there in zip(rows.split(size), drawn.split(size), filled.split(size), strict=True):
            scores = relation_scores(some, bank.read(where).to(rows.dtype), vectors)
            apart = where[:, None, :] != anchors[None, :, None]
            yield scores / self.options.temperature, apart & apart[:, :, :1] & there[:, None, :]

    def _estimate(
        self, rows: Tensor, bank: Bank, log_z: Tensor, anchors: Tensor, drawn: Tensor, filled: Tensor
    ) -> Tensor:
        """One direction of the loss, summed over pairs; its gradient reaches `rows` alone.

        The gradient is taken piece by piece: nothing of a piece is kept for the backward pass, before which the bank
        is updated.
        """
        noise = self.options.bank_samples / self.sampler.samples
        leaf = rows.detach().requires_grad_()
        total, gradient = rows.new_zeros(()), torch.zeros_like(rows)
        with torch.enable_grad():
            for scores, mask in self._scores(leaf, bank, anchors, drawn, filled):
                weights = mask.to(scores.dtype)
                value, slope = noise_contrast(scores.detach(), log_z, noise, weights[..., :1], weights[..., 1:])
                total = total + value
                gradient = gradient + torch.autograd.grad(scores, leaf, slope)[0]
        return total + ((rows - rows.detach()) * gradient).sum()

    @torch.no_grad()
    def _fix_z(self, directions: list[tuple[Tensor, Bank]], anchors: Tensor, drawn: Tensor, filled: Tensor) -> None:
        log_sums, slots = [], []
        for rows, bank in directions:
            pieces = list(self._masses(rows.detach(), bank, anchors, drawn, filled))
            log_sums.append(torch.stack([mass for mass, _ in pieces]).logsumexp(dim=0))
            slots.append(torch.stack([count for _, count in pieces]).sum())
        log_z = log_partition_of_sums(torch.stack(log_sums), torch.stack(slots), self.sampler.samples)
        # A first batch of one sample has no relations, and says nothing of Z: as if every score were 0.
        self.log_z.copy_(torch.where(log_z.isfinite(), log_z, math.log(self.sampler.samples)))
        self.z_known = True

    def _masses(
        self, rows: Tensor, bank: Bank, anchors: Tensor, drawn: Tensor, filled: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for scores, mask in self._scores(rows, bank, anchors, drawn, filled):
            yield scores.masked_fill(~mask, -math.inf).flatten().logsumexp(dim=0), mask.sum()
