"""Noise contrastive estimation against memory banks (Tian et al., ICLR 2020, arXiv 1910.10699): what `crd` and the
methods built from it share."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdray.objectives.bank import Bank
from kdray.objectives.contract import Objective, Setup
from kdray.objectives.gather import gather_rows
from kdray.objectives.sampling import ClassSampler
from kdray.objectives.sharded import BankKind, bytes_per_worker, make_bank

EPS = 1e-7


def noise_contrast(scores: Tensor, log_z: Tensor, noise: float, pull: Tensor, push: Tensor) -> tuple[Tensor, Tensor]:
    """Noise contrastive estimate, summed over rows, and its gradient with respect to the scores.

    L = -sum [pull log h + push log(1 - h)], h = q / (q + noise), q = exp(score) / Z. With
    x = score - log Z - log(noise + eps): log h = logsigmoid(x) and log(1 - h) = -softplus(x) - log(1 + eps / noise),
    which overflows for no temperature.

    Args:
        scores: [..., p + k], a.m / tau of p positives, then of k negatives.
        log_z: []. noise: K / N, the density of the noise times their number.
        pull: [..., p], push: [..., k]: what every slot counts for, 0 where it is empty.

    Returns:
        a scalar and a tensor like `scores`, neither with a graph.
    """
    p = pull.shape[-1]
    x = scores - log_z.to(scores.dtype) - math.log(noise + EPS)
    positive, negative = x[..., :p], x[..., p:]
    terms = (pull * F.softplus(-positive)).sum() + (push * F.softplus(negative)).sum()
    value = terms + push.sum() * math.log1p(EPS / noise)
    slope = torch.cat([-pull * torch.sigmoid(-positive), push * torch.sigmoid(negative)], dim=-1)
    return value, slope


@torch.no_grad()
def log_partition(scores: Tensor, used: Tensor, samples: int) -> Tensor:
    """log Z, Z = N * mean(exp(a.m / tau)) over the `used` slots of all workers' rows, per direction.

    scores [directions, n, K]; used bool [n, K] or [directions, n, K] -> [directions].
    """
    used = used.expand_as(scores)
    sums = scores.masked_fill(~used, -math.inf).flatten(1).logsumexp(dim=1)
    return log_partition_of_sums(sums, used.flatten(1).sum(dim=1), samples)


@torch.no_grad()
def log_partition_of_sums(log_sums: Tensor, slots: Tensor, samples: int) -> Tensor:
    """`log_partition` from this worker's log sum exp(a.m / tau) [directions] over its `slots` int64 [directions]."""
    total = gather_rows(log_sums[None, :]).logsumexp(dim=0)
    return total - gather_rows(slots[None, :]).sum(dim=0).to(total.dtype).log() + math.log(samples)


def expect_z(module: nn.Module, directions: int) -> None:
    """Give `module` the buffer `log_z` [directions], NaN until the first batch fixes it, and the flag `z_known`.

    The flag stands on the host, so that no step waits for the device to learn whether Z is there.
    """
    module.register_buffer("log_z", torch.full((directions,), math.nan))
    module.z_known = False  # type: ignore[assignment]
    module.register_load_state_dict_post_hook(_look_at_z)


def _look_at_z(module: nn.Module, incompatible: Any) -> None:
    assert isinstance(module.log_z, Tensor)
    module.z_known = not bool(module.log_z.isnan().any())  # type: ignore[assignment]


class MemoryContrast(Objective):
    """Base of objectives with one bank per network over the training set: `bank_student`, `bank_teacher`, `log_z`.

    `log_z` holds log Z of the student's rows against the teacher's bank and of the teacher's rows against the
    student's; NaN until the first batch fixes both.
    """

    sampler: ClassSampler
    bank_student: Bank
    bank_teacher: Bank
    log_z: Tensor
    z_known: bool

    def remember(self, setup: Setup, dim: int, kind: BankKind) -> None:
        """Build sampler, banks and Z."""
        assert setup.labels is not None
        self.sampler = ClassSampler(setup.labels, setup.num_classes)
        self.bank_student = make_bank(kind, setup.num_samples, dim)
        self.bank_teacher = make_bank(kind, setup.num_samples, dim)
        expect_z(self, 2)

    @staticmethod
    def remembered_bytes(setup: Setup, dim: int, kind: BankKind) -> int:
        """What sampler and banks take on a worker."""
        return 2 * bytes_per_worker(kind, setup.num_samples, dim, setup.workers) + ClassSampler.bytes(setup.num_samples)

    def contrast(
        self,
        u: Tensor,
        v: Tensor,
        index: Tensor,
        drawn: Tensor,
        used: Tensor,
        positives: int,
        *,
        temperature: float,
        momentum: float,
    ) -> Tensor:
        """L(u; teacher's bank) + L(v; student's bank), mean over rows; then the banks follow the rows of all workers.

        Args:
            u, v: unit rows of student and teacher [n, d]. index: int64 [n], their samples.
            drawn: int64 [n, P + K], the samples they are compared with. used: bool [n, P + K], which slots are filled.
            positives: P. A row's filled positives count 1 together, each of its negatives counts 1.
        """
        weights = used.to(u.dtype)
        pull, push = weights[:, :positives], weights[:, positives:]
        pull = pull / pull.sum(dim=1, keepdim=True)
        directions = [(u, self.bank_teacher), (v, self.bank_student)]
        located = self.bank_teacher.locate(drawn)
        scores = [bank.scores(rows.detach(), located) / temperature for rows, bank in directions]
        if not self.z_known:
            self.log_z.copy_(log_partition(torch.stack(scores), used, self.sampler.samples))
            self.z_known = True
        total, noise = u.new_zeros(()), push.shape[1] / self.sampler.samples
        for (rows, bank), score, log_z in zip(directions, scores, self.log_z, strict=True):
            value, slope = noise_contrast(score, log_z, noise, pull, push)
            # The gradient is written out, so that neither the collected vectors nor a copy of the bank, which is
            # updated before the backward pass, has to be kept for it.
            gradient = bank.combine(slope, located) / (temperature * len(rows))
            total = total + value / len(rows) + ((rows - rows.detach()) * gradient).sum()
        everyone = gather_rows(index)
        self.bank_student.update(everyone, gather_rows(u.detach()), momentum)
        self.bank_teacher.update(everyone, gather_rows(v.detach()), momentum)
        return total
