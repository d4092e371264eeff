"""Geometry and heads that relational objectives share. All heads compute in the dtype of what enters them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TINY = 1e-8
HIDDEN = -1e9
"""Logit of what a softmax must not see: finite, so that the difference of two log-probabilities stays a number."""


def unit(x: Tensor) -> Tensor:
    """x / ||x|| along the last dimension; rows shorter than 1e-8 become 0 and get no gradient.

    Dividing by max(||x||, eps) alone would multiply the gradient of a dead row by 1/eps.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(norm > TINY, x / norm.clamp_min(TINY), 0.0)


class Projection(nn.Linear):
    """A Linear that follows its input's dtype: the loss may run in float64 while the head is stored as float32."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Embed(Projection):
    """Linear with bias, then unit length: [n, d_in] -> [n, d] (the embedding of CRD)."""

    def forward(self, x: Tensor) -> Tensor:
        return unit(super().forward(x))


def off_diagonal(rows: int, columns: int, start: int, device: torch.device) -> Tensor:
    """bool [rows, columns], False where column = start + row: everything but a row's own place among the gathered
    ones."""
    own = torch.arange(rows, device=device) + start
    return own[:, None] != torch.arange(columns, device=device)[None, :]
