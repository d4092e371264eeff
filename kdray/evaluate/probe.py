"""Linear probe: the accuracy of a linear classifier on the pooled features of a frozen network.

Features are computed once, without augmentation, standardised by the training set's mean and deviation and divided by
sqrt(d), so that one learning rate serves networks of any width and scale. The classifier starts at zero and is trained
by SGD with a cosine; every worker takes its part of each batch.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from kdray.evaluate.features import Features
from kdray.experiment import LinearProbe
from kdray.models.eager import uncompiled


def linear_probe(
    train: Features, test: Features, num_classes: int, options: LinearProbe, seed: int
) -> dict[str, float]:
    """Train the classifier on `train` and return top1 and top5 (fractions) on `test`, with how many images of both.

    Features are those of all workers, on every worker. The order of the batches is a function of `seed` alone.
    """
    mean, std = train.vectors.mean(dim=0), train.vectors.std(dim=0, correction=0)
    scale = (std.clamp_min(1e-6) * math.sqrt(train.vectors.shape[1])).reciprocal()
    # Not initialised by chance: it starts at zero, and whoever trains goes on with the random state that it had.
    head = nn.utils.skip_init(nn.Linear, train.vectors.shape[1], num_classes, device=train.vectors.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    with torch.enable_grad():
        _fit(head, (train.vectors - mean) * scale, train.labels, options, seed)
    with torch.no_grad():
        logits = head((test.vectors - mean) * scale)
        ranked = logits.topk(min(5, num_classes), dim=1).indices == test.labels[:, None]
    return {
        "top1": float(ranked[:, 0].double().mean()),
        "top5": float(ranked.any(dim=1).double().mean()),
        "images": len(test),
        "bad_images": test.bad_images,
        "train_images": len(train),
    }


def _fit(head: nn.Linear, x: torch.Tensor, labels: torch.Tensor, options: LinearProbe, seed: int) -> None:
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    batch = min(options.batch, len(x))
    steps = -(-len(x) // batch)
    optimizer = uncompiled(torch.optim.SGD)(
        head.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * options.epochs)
    order = torch.Generator().manual_seed(seed)
    for _ in range(options.epochs):
        for rows in torch.randperm(len(x), generator=order).split(batch):
            mine = rows[rank::world].to(x.device)
            optimizer.zero_grad()
            loss = F.cross_entropy(head(x[mine]), labels[mine], reduction="sum") / len(rows)
            loss.backward()
            if world > 1:
                for parameter in head.parameters():
                    assert parameter.grad is not None
                    dist.all_reduce(parameter.grad)
            optimizer.step()
            schedule.step()
