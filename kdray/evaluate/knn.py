"""Weighted nearest neighbours: how well features tell the classes apart, without training anything on them.

The protocol of Wu et al. (CVPR 2018, arXiv 1805.01978, section 3.4), exact: every test image is compared with every
training image that is kept.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from kdray.evaluate.features import Features

K, TEMPERATURE = 20, 0.07
TRAIN_IMAGES = 10_000
"""Training images that neighbours are looked for among; more cost time in proportion."""
_SIMILARITIES = 2**25  # computed at a time: 128 MiB


def nearest_classes(
    train: Features, vectors: torch.Tensor, num_classes: int, k: int = K, temperature: float = TEMPERATURE
) -> torch.Tensor:
    """The class of every one of `vectors` [n, d] by its k nearest training images by cosine: int64 [n].

    A neighbour votes for its class with weight exp(cosine / temperature); of equal sums the lower class wins.
    """
    bank, k = F.normalize(train.vectors, dim=1), min(k, len(train))
    found = []
    for part in F.normalize(vectors, dim=1).split(max(1, _SIMILARITIES // len(train))):
        cosines, neighbours = (part @ bank.T).topk(k, dim=1)
        votes = torch.zeros(len(part), num_classes, device=part.device)
        # Less the largest cosine, which changes no order and keeps exp within float32 at any temperature.
        weights = ((cosines - cosines[:, :1]) / temperature).exp()
        found.append(votes.scatter_add_(1, train.labels[neighbours], weights).argmax(dim=1))
    return torch.cat(found)


def knn_result(train: Features, test: Features, num_classes: int) -> dict[str, float]:
    """What the record of a network without a classifier holds as its test: `knn` in place of any accuracy."""
    hits = nearest_classes(train, test.vectors, num_classes) == test.labels
    return {
        "knn": float(hits.double().mean()),
        "images": len(test),
        "bad_images": test.bad_images,
        "knn_k": K,
        "knn_temperature": TEMPERATURE,
        "knn_train_images": len(train),
    }
