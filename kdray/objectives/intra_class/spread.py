"""How far classes spread within themselves and from each other, from sums alone: no pair is ever formed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdray.objectives.heads import TINY, unit
from kdray.objectives.intra_class.cache import ClassCache

_CLASSES = 128
"""Rings summed at a time: the float32 copy of a large float16 cache never stands in memory whole."""


def sums_of_rows(rows: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Per class: sum [C, d], number [C] and sum of squared lengths [C] of rows [n, d] with labels int64 [n]."""
    members = F.one_hot(labels, classes).to(rows.dtype).T
    return members @ rows, members.sum(dim=1), members @ rows.square().sum(dim=1)


def sums_of_cache(cache: ClassCache, filled: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The same over the entries of `cache` that `filled` bool [C, M] names."""
    pieces = []
    for vectors, mask in zip(cache.vectors.split(_CLASSES), filled.to(dtype).split(_CLASSES), strict=True):
        rows = vectors.to(dtype)
        pieces.append((torch.einsum("cmd,cm->cd", rows, mask), (rows.square().sum(dim=2) * mask).sum(dim=1)))
    return torch.cat([one for one, _ in pieces]), filled.sum(dim=1).to(dtype), torch.cat([two for _, two in pieces])


def spread(sums: Tensor, counts: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean intra-class cosine distance, mean inter-class distance of centroids, and their ratio, three scalars.

    Of unit vectors with, per class, `sums` [C, d], `counts` [C] and `squares` [C] (their squared lengths summed).
    Intra: 1 - mean cosine over the pairs of a class, averaged over the classes that have a pair. Inter: 1 - mean cosine
    over the pairs of centroids' directions. What is not defined (no class with a pair; a single centroid) is 0.
    """
    pairs = counts * (counts - 1)
    paired = pairs > 0
    cosine = (sums.square().sum(dim=1) - squares) / pairs.clamp_min(1)
    intra = torch.where(paired, 1 - cosine, 0.0).sum() / paired.sum().clamp_min(1)
    centroids = unit(sums)
    n = (torch.linalg.vector_norm(sums, dim=1) > TINY).sum().to(sums.dtype)
    total = centroids.sum(dim=0).square().sum()
    inter = torch.where(n > 1, 1 - (total - n) / (n * (n - 1)).clamp_min(1), 0.0)
    return intra, inter, torch.where(inter > TINY, intra / inter.clamp_min(TINY), 0.0)


def softened_entropy(logits: Tensor, temperature: float) -> Tensor:
    """Mean entropy, in nats, of softmax(logits / temperature); logits [n, C], scalar out."""
    log_p = F.log_softmax(logits / temperature, dim=1)
    return -(log_p.exp() * log_p).sum(dim=1).mean()
