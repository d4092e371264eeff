"""Pooled features of a whole split, computed by all workers together: what a network without a classifier is judged by.

Every worker computes those of its share of the rows and gets those of all; in the order of the rows, so that nothing
that is made of them depends on the number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from kdray.data.batch import EvalFeed
from kdray.errors import DataError, TrainingError
from kdray.evaluate.accuracy import Prepare, broadcast_statistics
from kdray.models.outputs import Net
from kdray.train.precision import Precision


@dataclass(frozen=True)
class Features:
    """`vectors` float32 [n, d] and `labels` int64 [n] of the images that decoded; `bad_images` did not."""

    vectors: torch.Tensor
    labels: torch.Tensor
    bad_images: int

    def __len__(self) -> int:
        return len(self.labels)


@torch.no_grad()
def pooled_features(
    net: Net,
    feed: EvalFeed,
    prepare: Prepare,
    precision: Precision,
    device: torch.device,
    max_bad_fraction: float = 1.0,
) -> Features:
    """The pooled vectors of the whole split behind `feed`, on `device` of every worker; the mode of `net` is restored.

    Raises:
        DataError: more than `max_bad_fraction` of the images did not decode, or all of them.
        TrainingError: the network gives values that are not finite.
    """
    was_training = net.training
    net.eval()
    try:
        broadcast_statistics(net)
        vectors = [torch.empty(0, net.info.pooled_dim, device=device)]
        labels = [torch.empty(0, dtype=torch.int64, device=device)]
        for batch in feed:
            with precision.autocast():
                pooled = net(prepare(batch.images)).pooled
            vectors.append(pooled.float())
            labels.append(batch.labels)
    finally:
        net.train(was_training)
    whole = Features(_everyones(torch.cat(vectors)), _everyones(torch.cat(labels)), 0)
    bad = feed.num_samples - len(whole)
    if not len(whole) or bad > max_bad_fraction * feed.num_samples:
        raise DataError(
            f"{bad} of {feed.num_samples} images to take features of do not decode",
            where="data.max_bad_fraction",
            fix=f"Write these rows again, or raise it (now {max_bad_fraction:g})",
        )
    if not bool(whole.vectors.isfinite().all()):
        raise TrainingError(
            f"{net.info.name} gives features that are not finite in {precision.name}",
            fix="Evaluate in fp32 (evaluate.precision), or take weights from before the run diverged",
        )
    return Features(whole.vectors, whole.labels, bad)


def _everyones(rows: torch.Tensor) -> torch.Tensor:
    """The rows [n_r, ...] of all workers, worker by worker; how many each has may differ."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    sizes = [int(one) for one in counts]
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows
    pieces = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(pieces, padded)
    return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])


def spread(rows: np.ndarray, limit: int | None) -> np.ndarray:
    """At most `limit` of `rows` [n], evenly spaced: shards may be sorted by class, so the first ones would not do."""
    if limit is None or len(rows) <= limit:
        return rows
    return rows[np.arange(limit) * len(rows) // limit]
