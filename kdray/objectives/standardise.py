"""Logit standardisation: the option `standardise` of the methods that compare logits (Sun et al., arXiv 2403.01427)."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-7


def standardise(logits: Tensor) -> Tensor:
    """Every row less its mean, over its standard deviation (unbiased) plus 1e-7; logits [n, C], result [n, C].

    A row without spread beyond rounding (all classes alike, or a single class) becomes 0 and gets no gradient: that of
    the division would be 1e7, and that of the root has no bound.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / max(logits.shape[1] - 1, 1)
    rounding = 4 * torch.finfo(logits.dtype).eps * logits.detach().abs().amax(dim=1, keepdim=True)
    spread = variance > rounding.clamp_min(EPS).square()
    deviation = torch.where(spread, variance, 1.0).sqrt()
    return torch.where(spread, centred / (deviation + EPS), 0.0)


def comparable(student: Tensor, teacher: Tensor, standardised: bool) -> tuple[Tensor, Tensor]:
    """The logits [n, C] of both networks, or both standardised."""
    return (standardise(student), standardise(teacher)) if standardised else (student, teacher)
