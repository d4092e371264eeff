"""Class-guided contrastive distillation: pull same-class pairs of student and teacher together, push other classes
away.

Reconstruction. `memory` is the module of that name in CRCKD (Xing et al., MICCAI 2021, arXiv 2107.03225) with the noise
contrastive estimate of CRD (Tian et al., ICLR 2020); `inbatch` is the supervised contrastive loss of MLKD over the rows
of both networks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from kdray.experiment.bounds import BelowOne, Count, NonNegative, Positive
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
from kdray.objectives.heads import Embed, off_diagonal
from kdray.objectives.registry import register
from kdray.objectives.sampling import ClassSampler

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs

_EPS = 1e-7


class ClassGuidedConfig(ObjectiveConfig):
    """Options of `clmkd.class_guided`.

    - `mode`: `memory` (banks over the training set) or `inbatch`.
    - `temperature`: tau. `dim`: d of the embeddings.
    - `positives` P, `negatives` K, `momentum` of the banks: `memory` only.
    - `gather`: whether `inbatch` sees the global batch or the worker's own. `memory` contrasts with banks, which always
      take the rows of all workers.

    `weight` defaults to 0.8 with banks (CRD) and 1 in the batch (MLKD).
    """

    weight_by_mode: ClassVar[dict[str, float]] = {"memory": 0.8, "inbatch": 1.0}

    mode: Literal["memory", "inbatch"] = "memory"
    weight: NonNegative = 0.8
    temperature: Positive = 0.07
    dim: Count = 128
    positives: Count = 20
    negatives: Count = 4096
    momentum: BelowOne = 0.5
    gather: Gather = "global"

    @model_validator(mode="before")
    @classmethod
    def _weight_of_mode(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("weight") is None:
            mode = value.get("mode", cls.model_fields["mode"].default)
            return value | {"weight": cls.weight_by_mode.get(str(mode), 1.0)}
        return value


def supervised_contrast(
    anchors: Tensor, candidates: Tensor, positive: Tensor, other: Tensor, temperature: float
) -> Tensor:
    """Mean over anchors of -(1/|P(a)|) sum_p log[exp(a.p/tau) / sum_{q != a} exp(a.q/tau)] (A4 (1), in-batch).

    Args:
        anchors: [m, d]; candidates: [n, d]; unit rows.
        positive: bool [m, n], P(a), the anchor itself left out; every row holds at least one.
        other: bool [m, n], everything but the anchor itself.
    """
    logits = anchors @ candidates.T / temperature
    log_sum = logits.masked_fill(~other, -math.inf).logsumexp(dim=1)
    share = positive.to(logits.dtype)
    return (log_sum - (share * logits).sum(dim=1) / share.sum(dim=1)).mean()


@register("clmkd.class_guided")
class ClassGuided(Objective):
    """Class-guided contrast between student and teacher, with memory banks or in the batch (CLMKD's first module)."""

    config = ClassGuidedConfig
    provenance = "reconstruction"
    family = "contrastive"
    source = "CLMKD (CAAI TIT 2025) from CRCKD (arXiv 2107.03225), CRD (arXiv 1910.10699), MLKD (arXiv 2012.00573)"
    options: ClassGuidedConfig

    log_z: Tensor

    def __init__(self, options: ClassGuidedConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        self.embed_student = Embed(setup.student.pooled_dim, options.dim)
        self.embed_teacher = Embed(setup.teacher.pooled_dim, options.dim)
        if options.mode == "memory":
            assert setup.labels is not None
            self.sampler = ClassSampler(setup.labels, setup.num_classes)
            self.bank_student = Bank(setup.num_samples, options.dim)
            self.bank_teacher = Bank(setup.num_samples, options.dim)
            # log Z of u against the teacher's bank and v against the student's; NaN until the first batch fixes it.
            self.register_buffer("log_z", torch.full((2,), math.nan))
            self._z_known = False
            self.register_load_state_dict_post_hook(_look_at_z)

    @classmethod
    def needs(cls, options: ClassGuidedConfig) -> Needs:
        memory = options.mode == "memory"
        return Needs(teacher_pooled=True, index=memory, labels=memory)

    @classmethod
    def bank_bytes(cls, options: ClassGuidedConfig, setup: Setup) -> int:
        if options.mode == "inbatch":
            return 0
        return 2 * Bank.bytes(setup.num_samples, options.dim) + ClassSampler.bytes(setup.num_samples)

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
        u, v = self.embed_student(student.pooled), self.embed_teacher(teacher.pooled)
        if self.options.mode == "memory":
            return {LOSS: self._memory(u, v, targets, step)}
        return {LOSS: self._inbatch(u, v, targets)}

    def _inbatch(self, u: Tensor, v: Tensor, targets: Targets) -> Tensor:
        rows, labels = len(u), targets.row_labels
        own, all_u, all_v, all_labels = slice(0, rows), u, v, labels
        if self.options.gather == "global":
            own, all_u, all_v, all_labels = own_rows(rows), gather_rows(u), gather_rows(v), gather_rows(labels)
        same = labels[:, None] == all_labels[None, :]
        # A row of [u; v] is itself only in its own half: the other network's embedding of the sample is a positive.
        apart = off_diagonal(rows, len(all_u), own.start, u.device)
        always = torch.ones_like(apart)
        other = torch.cat([torch.cat([apart, always], dim=1), torch.cat([always, apart], dim=1)])
        positive = same.repeat(2, 2) & other
        return supervised_contrast(
            torch.cat([u, v]), torch.cat([all_u, all_v]), positive, other, self.options.temperature
        )

    def _memory(self, u: Tensor, v: Tensor, targets: Targets, step: StepInfo) -> Tensor:
        options, labels, index = self.options, targets.row_labels, targets.row_index
        keys = row_keys(targets.index, targets.views)
        positives, filled = self.sampler.positives(
            index, labels, keys, options.positives, seed=step.seed, step=step.step
        )
        negatives, exist = self.sampler.negatives(labels, keys, options.negatives, seed=step.seed, step=step.step)
        drawn = torch.cat([positives, negatives], dim=1)
        used = torch.cat([filled, exist.expand_as(negatives)], dim=1)
        scores_u = self.bank_teacher.scores(u.detach(), drawn) / options.temperature
        scores_v = self.bank_student.scores(v.detach(), drawn) / options.temperature
        if not self._z_known:
            self._fix_z(scores_u, scores_v, used)
        loss = self._estimate(u, scores_u, self.log_z[0], self.bank_teacher, drawn, used)
        loss = loss + self._estimate(v, scores_v, self.log_z[1], self.bank_student, drawn, used)
        all_index = gather_rows(index)
        self.bank_student.update(all_index, gather_rows(u.detach()), options.momentum)
        self.bank_teacher.update(all_index, gather_rows(v.detach()), options.momentum)
        return loss

    def _estimate(self, rows: Tensor, scores: Tensor, log_z: Tensor, bank: Bank, drawn: Tensor, used: Tensor) -> Tensor:
        """One direction of reference A3.2, mean over rows; its gradient reaches `rows` alone.

        With q = exp(score) / Z and the noise density K/N, log h = logsigmoid(x) and
        log(1 - h) = -softplus(x) - log(1 + eps N/K) for x = log q - log(K/N + eps), which overflows for no temperature.
        The gradient is written out, so that neither the collected vectors nor a copy of the bank, which is updated
        before the backward pass, has to be kept for it.
        """
        options, p = self.options, self.options.positives
        noise = options.negatives / self.sampler.samples
        x = scores - log_z.to(scores.dtype) - math.log(noise + _EPS)
        weights = used.to(rows.dtype)
        pull, push = weights[:, :p] / weights[:, :p].sum(dim=1, keepdim=True), weights[:, p:]
        terms = (pull * F.softplus(-x[:, :p])).sum() + (push * F.softplus(x[:, p:])).sum()
        value = (terms + push.sum() * math.log1p(_EPS / noise)) / len(rows)
        slope = torch.cat([-pull * torch.sigmoid(-x[:, :p]), push * torch.sigmoid(x[:, p:])], dim=1)
        gradient = bank.combine(slope, drawn) / (options.temperature * len(rows))
        return value + ((rows - rows.detach()) * gradient).sum()

    @torch.no_grad()
    def _fix_z(self, scores_u: Tensor, scores_v: Tensor, used: Tensor) -> None:
        """Z = N * mean(exp(a.m / tau)) over the first batch of all workers, per direction (reference A3.1)."""
        scores = torch.stack([scores_u, scores_v]).masked_fill(~used, -math.inf)
        log_sums = gather_rows(scores.flatten(1).logsumexp(dim=1)[None, :]).logsumexp(dim=0)
        slots = gather_rows(used.sum()[None]).sum()
        self.log_z.copy_(log_sums - slots.to(log_sums.dtype).log() + math.log(self.sampler.samples))
        self._z_known = True


def _look_at_z(module: nn.Module, incompatible: Any) -> None:
    assert isinstance(module, ClassGuided)
    module._z_known = not bool(module.log_z.isnan().any())
