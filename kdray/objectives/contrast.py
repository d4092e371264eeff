"""Contrast between embeddings of the batch, with labels saying which pairs belong together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kdray.objectives.gather import gather_rows, own_rows
from kdray.objectives.heads import Projection, off_diagonal, unit

if TYPE_CHECKING:
    from kdray.objectives.contract import Gather


class MlpEmbed(nn.Module):
    """Linear, ReLU, Linear, then unit length: [n, d_in] -> [n, d]; the hidden layer is as wide as the input."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.hidden, self.out = Projection(width, width), Projection(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        return unit(self.out(self.hidden(x).relu()))


def supervised_contrast(
    anchors: Tensor, candidates: Tensor, positive: Tensor, other: Tensor, temperature: float
) -> Tensor:
    """Mean over anchors of -(1/|P(a)|) sum_p log[exp(a.p/tau) / sum_{q != a} exp(a.q/tau)].

    L_out of Khosla et al., NeurIPS 2020 (arXiv 2004.11362), Eq. 2.

    Args:
        anchors: [m, d]; candidates: [n, d]; unit rows.
        positive: bool [m, n], P(a), the anchor itself left out; every row holds at least one.
        other: bool [m, n], everything but the anchor itself.
    """
    logits = anchors @ candidates.T / temperature
    log_sum = logits.masked_fill(~other, -math.inf).logsumexp(dim=1)
    share = positive.to(logits.dtype)
    return (log_sum - (share * logits).sum(dim=1) / share.sum(dim=1)).mean()


def label_contrast(embeddings: list[Tensor], labels: Tensor, temperature: float, gather: Gather) -> Tensor:
    """`supervised_contrast` of all rows of all networks: whatever has an anchor's label, but itself, is a positive.

    embeddings: one [n, d] per network, unit rows; labels int64 [n]. Every row must have another one of its label: a
    second view of its sample, or a second network's embedding.
    """
    rows = len(labels)
    own, everyone, all_labels = slice(0, rows), embeddings, labels
    if gather == "global":
        own, all_labels = own_rows(rows), gather_rows(labels)
        everyone = [gather_rows(one) for one in embeddings]
    same = labels[:, None] == all_labels[None, :]
    # A row is itself only among its own network's: the other network's embedding of the sample is a positive.
    apart = off_diagonal(rows, len(all_labels), own.start, labels.device)
    always, networks = torch.ones_like(apart), range(len(embeddings))
    other = torch.cat([torch.cat([apart if i == j else always for j in networks], dim=1) for i in networks])
    positive = same.repeat(len(networks), len(networks)) & other
    return supervised_contrast(torch.cat(embeddings), torch.cat(everyone), positive, other, temperature)
