"""Accuracy on a split, counted exactly: every image once, whatever the number of workers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from kdray.data.batch import Batch, EvalFeed
from kdray.errors import DataError, TrainingError
from kdray.models.outputs import Net
from kdray.train.precision import Precision

Prepare = Callable[[torch.Tensor], torch.Tensor]


def broadcast_statistics(net: nn.Module) -> None:
    """Give every rank rank 0's buffers (batch-norm statistics), so that all ranks evaluate one and the same network."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        for buffer in net.buffers():
            dist.broadcast(buffer, src=0)


@torch.no_grad()
def evaluate(
    net: Net,
    feed: EvalFeed,
    prepare: Prepare,
    precision: Precision,
    device: torch.device,
    max_bad_fraction: float = 1.0,
) -> dict[str, float]:
    """Return top1, top5 (fractions), nll (nats per image), images and bad_images of `net` over the whole split.

    `prepare` turns uint8 images [n, 3, H, W] into what the network takes. All ranks get the global figures. The
    training mode of `net` is restored, whatever happens.

    Raises:
        DataError: the images counted and the bad ones do not add up to the split, or more than `max_bad_fraction`
            of it did not decode.
        TrainingError: the network gives values that are not finite, so that its accuracy means nothing.
    """
    was_training = net.training
    net.eval()
    try:
        broadcast_statistics(net)
        sums = torch.zeros(5, dtype=torch.float64, device=device)  # top-1, top-5, nll, images, bad images
        for batch in feed:
            sums[:4] += count_batch(net, batch, prepare, precision)
        sums[4] = feed.bad_images
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(sums)
    finally:
        net.train(was_training)
    top1, top5, nll, images, bad = sums.tolist()
    if int(images + bad) != feed.num_samples or images == 0:
        raise DataError(f"evaluation saw {int(images)} good and {int(bad)} bad images of {feed.num_samples}")
    if bad > max_bad_fraction * feed.num_samples:
        raise DataError(
            f"{int(bad)} of {feed.num_samples} images to evaluate on do not decode",
            where="data.max_bad_fraction",
            fix=f"Write these rows again, or raise it (now {max_bad_fraction:g})",
        )
    if not math.isfinite(nll):
        raise TrainingError(
            f"{net.info.name} gives values that are not finite in {precision.name}",
            fix="Evaluate in fp32 (evaluate.precision), or take weights from before the run diverged",
        )
    return {
        "top1": top1 / images,
        "top5": top5 / images,
        "nll": nll / images,
        "images": int(images),
        "bad_images": int(bad),
    }


def count_batch(net: Net, batch: Batch, prepare: Prepare, precision: Precision) -> torch.Tensor:
    """Sums [4] over one batch: top-1 hits, top-5 hits (or top-C when there are fewer classes), nll, images."""
    with precision.autocast():
        logits = net(prepare(batch.images)).logits
    assert logits is not None  # networks without a classifier are refused before
    logits = logits.float()
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch.labels[:, None]
    nll = F.cross_entropy(logits, batch.labels, reduction="none").double().sum()  # the same whatever the batch
    hits = ranked.sum(dim=0)
    count = torch.tensor(float(len(batch.labels)), device=logits.device, dtype=torch.float64)
    return torch.stack([hits[0].double(), hits.sum().double(), nll, count])
