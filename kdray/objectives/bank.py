"""A memory bank: one unit vector per training sample, moved towards the sample's latest embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdray.objectives.heads import unit

_DENSE_FACTOR = 32
_DENSE_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 27


def sample_means(index: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """For every row, the mean of all rows of its sample, [n, d], and the first of them, int64 [n].

    index int64 [n], rows [n, d]. A row that is alone stays as it is, to the bit. Sums run along the sorted rows in
    log2(n) steps: neither an [n, n] matrix nor additions whose order the device chooses, for all workers must get
    the same.
    """
    order = index.argsort(stable=True)
    ordered, total = index[order], rows[order]
    reach = 1
    while reach < len(index):  # total[i]: the last `reach` rows up to i, as far as they are of i's sample
        same = (ordered[reach:] == ordered[:-reach])[:, None]
        total = torch.cat([total[:reach], torch.where(same, total[reach:] + total[:-reach], total[reach:])])
        reach *= 2
    first, end = torch.searchsorted(ordered, index), torch.searchsorted(ordered, index, right=True)
    return total[end - 1] / (end - first)[:, None], order[first]


class Bank(nn.Module):
    """`vectors` float32 [N, d], a buffer (saved exactly, never a parameter), replicated on every worker.

    It starts at random unit vectors from torch's CPU generator, which `ObjectiveSet` seeds alike on all workers;
    after that it changes only by `update` with the rows of all workers, so that all copies stay equal.
    `sharded.ShardedBank` does the same with a share of the rows on each worker.
    """

    vectors: Tensor
    workers: int = 1
    """How many workers' rows stand in memory when this worker reads its own."""

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
        # All rows of one sample bring the very same vector, so it does not matter which is written last.
        self.vectors[index] = self._moved(index, index, rows, momentum)

    def _moved(self, place: Tensor, index: Tensor, rows: Tensor, momentum: float) -> Tensor:
        """What `update` makes of the vectors at `place` int64 [n]."""
        mean, first = sample_means(index, rows)
        old = self.vectors[place].to(rows.dtype)
        return unit(momentum * old + (1.0 - momentum) * mean).to(self.vectors.dtype)[first]

    def locate(self, index: Tensor) -> Tensor:
        """What `scores` and `combine` take for the samples `index` int64 [n, K] of this worker's rows; good for all
        banks of the same samples."""
        return index

    def read(self, index: Tensor) -> Tensor:
        """The vectors [..., d] of the samples `index` int64 [...]."""
        return self.vectors[index]

    def read_common(self, index: Tensor) -> Tensor:
        """`read`, where all workers ask for the same samples."""
        return self.vectors[index]

    @torch.no_grad()
    def scores(self, rows: Tensor, located: Tensor) -> Tensor:
        """rows[i] . vector of sample index[i, k]: [n, d], `locate(index)` -> [n, K]."""
        index = located
        if self._dense(index):
            return (rows @ self.vectors.to(rows.dtype).T).gather(1, index)
        parts = [
            torch.einsum("nd,nkd->nk", some, self.vectors[where].to(rows.dtype))
            for some, where in self._chunks(rows, index)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def combine(self, weights: Tensor, located: Tensor) -> Tensor:
        """sum over k of weights[i, k] * vector of sample index[i, k]: [n, K], `locate(index)` -> [n, d]; the transpose
        of `scores`."""
        index = located
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
