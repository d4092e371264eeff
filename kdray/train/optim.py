"""Optimizers, and the learning rate as a function of the step.

The rate is computed, not accumulated: a resumed run needs no scheduler state, and any step's rate can be asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from kdray.experiment import Train
from kdray.models.eager import uncompiled


def base_lr(train: Train) -> float:
    """Peak learning rate after `train.lr_rule`, which relates the rate written down to the batch it was tuned for."""
    lr, rule = train.optimizer.lr, train.lr_rule
    if rule.type == "none":
        return lr
    assert rule.base_batch is not None  # the experiment refuses a rule without it
    ratio = train.batch / rule.base_batch
    return lr * (ratio if rule.type == "linear" else math.sqrt(ratio))


def lr_at(train: Train, step: int, steps_per_epoch: int) -> float:
    """Learning rate of optimizer step `step` (0-based).

    Warm-up climbs linearly over `schedule.warmup_epochs`, reaching the peak at its end; the rest of the schedule is a
    function of the position alone. `multistep` milestones are epochs, counted from 0 at the start of the run.
    """
    schedule, peak = train.schedule, base_lr(train)
    epoch = step / steps_per_epoch
    start = round(schedule.warmup_epochs * steps_per_epoch)
    if step < start:
        return peak * (step + 1) / start
    if schedule.type == "constant":
        return peak
    if schedule.type == "multistep":
        passed = sum(epoch >= milestone for milestone in schedule.milestones)
        return peak * schedule.gamma**passed
    total = train.epochs * steps_per_epoch
    done = (step - start) / max(1, total - start)
    if schedule.type == "cosine":
        return schedule.min_lr + 0.5 * (peak - schedule.min_lr) * (1 + math.cos(math.pi * done))
    return schedule.min_lr + (peak - schedule.min_lr) * (1 - done)


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float, decay_norm_and_bias: bool) -> list[dict]:
    """Parameters with and without weight decay; without `decay_norm_and_bias`, vectors and scalars are not decayed."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                (decayed if decay_norm_and_bias or parameter.ndim > 1 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def follow_weight_decay(optimizer: torch.optim.Optimizer, train: Train, modules: Iterable[nn.Module]) -> None:
    """Give the groups of `optimizer`, as `make_optimizer` made them over `modules`, the weight decay of `train`."""
    config = train.optimizer
    wanted = parameter_groups(modules, config.weight_decay, config.decay_norm_and_bias)
    for group, known in zip(optimizer.param_groups, wanted, strict=True):
        group["weight_decay"] = known["weight_decay"]


def make_optimizer(train: Train, modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
    """Build the optimizer of `train` over the trainable parameters of `modules` (one fused kernel per step)."""
    config = train.optimizer
    groups = parameter_groups(modules, config.weight_decay, config.decay_norm_and_bias)
    lr = base_lr(train)
    if config.type == "sgd":
        return uncompiled(torch.optim.SGD)(
            groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov, fused=True
        )
    return uncompiled(torch.optim.AdamW)(groups, lr=lr, betas=config.betas, fused=True)
