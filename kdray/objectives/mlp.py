"""The projection head of MLKD and of SimCLR: two Linears with a batch norm and a ReLU between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from kdray.objectives.heads import Projection
from kdray.objectives.norm import EPS, BatchNorm

if TYPE_CHECKING:
    from kdray.objectives.contract import Gather


class MLPHead(nn.Module):
    """Linear, batch norm, ReLU, Linear: [n, d_in] -> [n, d_out].

    The first Linear has no bias, which the batch norm would take away again. `gather: local` normalises by the
    worker's own rows, for losses that are to see no others.
    """

    def __init__(self, width: int, hidden: int, dim: int, gather: Gather = "global") -> None:
        super().__init__()
        self.enter, self.norm = Projection(width, hidden, bias=False), BatchNorm(hidden)
        self.leave = Projection(hidden, dim)
        self.gather = gather

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.leave((self.norm(x) if self.gather == "global" else self._local_norm(x)).relu())

    def _local_norm(self, x: Tensor) -> Tensor:
        assert self.norm.weight is not None and self.norm.bias is not None
        centred = x - x.mean(dim=0)
        scaled = centred * (centred.square().mean(dim=0) + EPS).rsqrt()
        return scaled * self.norm.weight.to(x.dtype) + self.norm.bias.to(x.dtype)
