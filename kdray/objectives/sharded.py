"""A memory bank whose rows are shared out among the workers, and the choice between it and a replicated one."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from kdray.objectives.bank import Bank
from kdray.objectives.gather import gather_rows, world
from kdray.objectives.heads import unit

BankKind = Literal["replicated", "sharded"]

SPARE = 32
_CHUNK_BYTES = 1 << 26


def make_bank(kind: BankKind, samples: int, dim: int) -> Bank:
    """The bank of this process. One worker holds the same either way."""
    return ShardedBank(samples, dim) if kind == "sharded" and world()[1] > 1 else Bank(samples, dim)


def bytes_per_worker(kind: BankKind, samples: int, dim: int, workers: int) -> int:
    """What one bank takes on each of `workers`."""
    if kind == "replicated" or workers == 1:
        return Bank.bytes(samples, dim)
    return Bank.bytes(-(-samples // workers) + SPARE, dim)


class ShardedBank(Bank):
    """A bank of which worker r holds the rows r * S to (r + 1) * S - 1, S = ceil(samples / workers).

    `vectors` float32 [S + 32, d]: the worker's own rows (zeros where the last workers have none left), then rows that
    stay zero. Samples of other workers are looked up there: they add exactly nothing to sums over workers, and no shape
    depends on how many there are.

    It starts at the same vectors as a replicated bank. What is saved is the whole bank [samples, d], as of a replicated
    one, so that a run may go on with another number of workers or with the other kind: all workers call `collect`, then
    rank 0 may call `state_dict`. Loading takes the whole bank and keeps the worker's own rows. All other methods are
    collective too: every worker calls them, with equally many rows.
    """

    def __init__(self, samples: int, dim: int) -> None:
        super().__init__(0, dim)
        self.samples = samples
        self.rank, self.workers = world()
        self.share = -(-samples // self.workers)
        self._whole: Tensor | None = None
        self.vectors = self._own(torch.randn(samples, dim))
        self.vectors[: self.share] = unit(self.vectors[: self.share])

    def _own(self, whole: Tensor) -> Tensor:
        """[samples, d] -> [S + 32, d], padded with zeros."""
        own = whole.new_zeros(self.share + SPARE, whole.shape[1])
        rows = whole[self.rank * self.share : (self.rank + 1) * self.share]
        own[: len(rows)] = rows
        return own

    def _place(self, index: Tensor) -> Tensor:
        """Where the samples `index` stand in `vectors`; those of other workers at one of the rows of zeros."""
        local = index - self.rank * self.share
        # Over several such rows: thousands of additions to a single one would wait for each other.
        return torch.where((local >= 0) & (local < self.share), local, self.share + index % SPARE)

    def locate(self, index: Tensor) -> Tensor:
        # Half the traffic of int64.
        return self._place(gather_rows(index.int() if self.samples < 1 << 31 else index).long())

    @torch.no_grad()
    def scores(self, rows: Tensor, located: Tensor) -> Tensor:
        return _summed(super().scores(gather_rows(rows.detach()), located))

    @torch.no_grad()
    def combine(self, weights: Tensor, located: Tensor) -> Tensor:
        return _summed(super().combine(gather_rows(weights.detach()), located))

    @torch.no_grad()
    def read(self, index: Tensor) -> Tensor:
        return _summed(self.vectors[self.locate(index)])

    @torch.no_grad()
    def read_common(self, index: Tensor) -> Tensor:
        rows = self.vectors[self._place(index)]
        dist.all_reduce(rows)
        return rows

    @torch.no_grad()
    def update(self, index: Tensor, rows: Tensor, momentum: float) -> None:
        self._whole = None
        place = self._place(index)
        moved = self._moved(place, index, rows, momentum)
        self.vectors[place] = torch.where((place < self.share)[:, None], moved, 0.0)

    @torch.no_grad()
    def collect(self) -> None:
        """Bring the whole bank to the host memory of rank 0, where `state_dict` finds it until the next change."""
        dim, self._whole = self.vectors.shape[1], None
        whole = torch.empty(self.samples, dim, dtype=self.vectors.dtype) if self.rank == 0 else None
        size = max(1, _CHUNK_BYTES // (self.workers * dim * self.vectors.element_size()))
        for begin in range(0, self.share, size):
            piece = self.vectors[begin : min(begin + size, self.share)].contiguous()
            pieces = [torch.empty_like(piece) for _ in range(self.workers)] if whole is not None else None
            dist.gather(piece, pieces, dst=0)
            if whole is None or pieces is None:
                continue
            for owner, rows in enumerate(pieces):
                into = whole[owner * self.share + begin :][: len(rows)]
                into.copy_(rows[: len(into)])
        self._whole = whole

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self._whole is None:
            raise RuntimeError(
                "a sharded bank is saved whole, by rank 0: call ObjectiveSet.collect() on all workers first"
            )
        destination[f"{prefix}vectors"] = self._whole

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self._whole = None
        key, errors = f"{prefix}vectors", args[-1]
        whole = state_dict.get(key)
        if whole is not None:
            expected = (self.samples, self.vectors.shape[1])
            if tuple(whole.shape) != expected:
                errors.append(f"{key} is {tuple(whole.shape)}, and a whole bank is {expected}")
                return
            state_dict = {**state_dict, key: self._own(whole)}
        super()._load_from_state_dict(state_dict, prefix, *args)


def _summed(x: Tensor) -> Tensor:
    """The worker's own rows [n, ...] of the sum over workers of `x` [workers * n, ...]."""
    own = x.new_empty(len(x) // world()[1], *x.shape[1:])
    dist.reduce_scatter_tensor(own, x.contiguous())
    return own
