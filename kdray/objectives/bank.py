"""A memory bank: one unit vector per training sample, moved towards the sample's latest embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdray.objectives.heads import unit

_DENSE_FACTOR = 32
_DENSE_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 27


class Bank(nn.Module):
    """`vectors` float32 [N, d], a buffer (saved exactly, never a parameter), replicated on every worker.

    It starts at random unit vectors from torch's CPU generator, which `ObjectiveSet` seeds alike on all workers;
    after that it changes only by `update` with the rows of all workers, so that all copies stay equal.
    """

    vectors: Tensor

    def __init__(self, samples: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", unit(torch.randn(samples, dim)))

    @staticmethod
    def bytes(samples: int, dim: int) -> int:
        """What a bank of this size takes."""
        return samples * dim * 4

    @torch.no_grad()
    def update(self, index: Tensor, rows: Tensor, momentum: float) -> None:
        """M_i <- unit(m M_i + (1 - m) a_i) for index int64 [n] and rows [n, d], those of all workers.

        Several rows of one sample (views, or a row that stands in for a broken image) count as their mean.
        """
        weights = (index[:, None] == index[None, :]).to(rows.dtype)
        mean = weights @ rows / weights.sum(dim=1, keepdim=True)
        old = self.vectors[index].to(rows.dtype)
        # Rows of one sample get the same value, so it does not matter which of them is written last.
        self.vectors[index] = unit(momentum * old + (1.0 - momentum) * mean).to(self.vectors.dtype)

    @torch.no_grad()
    def scores(self, rows: Tensor, index: Tensor) -> Tensor:
        """rows[i] . vectors[index[i, k]]: [n, d], int64 [n, K] -> [n, K]."""
        if self._dense(index):
            return (rows @ self.vectors.to(rows.dtype).T).gather(1, index)
        parts = [
            torch.einsum("nd,nkd->nk", some, self.vectors[where].to(rows.dtype))
            for some, where in self._chunks(rows, index)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def combine(self, weights: Tensor, index: Tensor) -> Tensor:
        """sum over k of weights[i, k] * vectors[index[i, k]]: [n, K], int64 [n, K] -> [n, d]; the transpose of
        `scores`."""
        if self._dense(index):
            vectors = self.vectors.to(weights.dtype)
            spread = weights.new_zeros(len(weights), len(vectors)).scatter_add_(1, index, weights)
            return spread @ vectors
        parts = [
            torch.einsum("nk,nkd->nd", some, self.vectors[where].to(weights.dtype))
            for some, where in self._chunks(weights, index)
        ]
        return torch.cat(parts)

    def _dense(self, index: Tensor) -> bool:
        """Whether scoring the whole bank costs less than collecting [n, K, d] vectors (measured: 8 times less on
        CIFAR)."""
        samples = len(self.vectors)
        return samples <= _DENSE_FACTOR * index.shape[1] and len(index) * samples * 4 <= _DENSE_BYTES

    def _chunks(self, rows: Tensor, index: Tensor) -> list[tuple[Tensor, Tensor]]:
        size = max(1, _CHUNK_BYTES // (index.shape[1] * self.vectors.shape[1] * 4))
        return list(zip(rows.split(size), index.split(size), strict=True))
