"""Measuring the gradients of objectives before the first step, and freezing the weights that follow from them.

The measurement takes the student's initial weights and the batches that the first epoch begins with, and leaves no
trace: network and objectives are thrown away, and everything random is a function of the step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import Tensor

from kdray.data.batch import Batch
from kdray.data.mix import Mixer
from kdray.errors import StoreError, TrainingError
from kdray.experiment import Balance
from kdray.objectives import StepInfo
from kdray.objectives.balance import Balanced, set_weights
from kdray.objectives.contract import Mixed
from kdray.objectives.leaves import losses
from kdray.store import Store
from kdray.train.agree import of_first
from kdray.train.checkpoint import Checkpoints
from kdray.train.convolutions import safe_convolutions
from kdray.train.job import Job
from kdray.train.precision import Precision
from kdray.train.seed import set_seed
from kdray.train.task import Teacher, pieces

log = logging.getLogger(__name__)
FILE = "balance.json"


def gradient_norms(job: Job, batches: int) -> tuple[dict[str, float | None], int, int]:
    """Frobenius norms of d loss / d pooled over the global batch, of every leaf of the objectives of `job`, unweighted.

    Of the first `batches` of the first epoch, or fewer where that has fewer; objectives go on remembering from one to
    the next, and the later half is averaged. In float32. A leaf whose loss does not reach the pooled vector has None.
    All ranks call it together and get the same. Returns the norms, how many batches were seen, how many of them count.

    The trainable of `job` is used up: banks, queues and running statistics are those after the batches.
    """
    fp32 = Precision("fp32", job.device.type)
    teacher = None if job.teacher is None else Teacher(job.teacher.net, job.teacher.pixels, fp32)
    job = replace(job, teacher=teacher, precision=fp32)
    job.trainable.train()
    mixer = Mixer(job.mix, job.seed, job.train.batch, job.world) if job.mix is not None else None
    squares: list[Tensor] = []
    reached: dict[str, bool] = {}
    wanted = min(batches, job.feed.steps_per_epoch)
    feed = job.feed.epoch(0)
    devices = [job.device] if job.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), safe_convolutions(job.trainable, job.device):
            for number in range(wanted):
                set_seed(job.seed, number, job.rank)  # as the step does
                parts = pieces(next(feed), job.train.accumulate, mixer, 0, number)
                found = [_squares(job, piece, mixed, number, reached) for piece, mixed in parts]
                squares.append(torch.stack(found).sum(dim=0))
    finally:
        close = getattr(feed, "close", None)  # an iterator that prefetches is a generator
        if close is not None:
            close()
    counted = wanted - wanted // 2
    # A worker's loss is the mean over its own rows, and the run's the mean over workers.
    total = torch.stack(squares[-counted:])
    if job.world > 1:
        dist.all_reduce(total)
    means = (total.sqrt() / (job.world * job.train.accumulate)).mean(dim=0).tolist()
    norms = {label: mean if reached[label] else None for label, mean in zip(reached, means, strict=True)}
    return norms, wanted, counted


def _squares(job: Job, piece: Batch, mixed: Mixed | None, number: int, reached: dict[str, bool]) -> Tensor:
    """Squared norms [leaves] of one micro-batch's gradients, float64; notes in `reached` which have one at all."""
    images, targets, teacher, (head,) = job.inputs(piece, mixed)
    trainable, needs = job.trainable, job.trainable.objectives.needs
    epochs = job.train.epochs
    # At the run's end: what an objective begins later by itself has begun.
    step = StepInfo(epoch=float(epochs), epochs=epochs, step=number, seed=job.seed)
    student = trainable.net(images, stages=needs.stages, preact=needs.preact)
    found: list[Tensor] = []
    for label, loss in losses(trainable.objectives, targets, student, teacher, trainable.net.classifier, head, step):
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, student.pooled, retain_graph=True, allow_unused=True)
        reached[label] = reached.get(label, False) or gradient is not None
        found.append(loss.new_zeros((), dtype=torch.float64) if gradient is None else gradient.double().square().sum())
    return torch.stack(found)


def balanced(job: Job, balance: Balance, objectives: dict[str, dict[str, Any]]) -> Balanced:
    """Measure with `job` and set the weights of `objectives` by a resolved `balance`; rank 0 warns of what is kept."""
    norms, seen, counted = gradient_norms(job, balance.batches)
    result = set_weights(balance, objectives, norms, batches=seen, averaged=counted)
    if job.rank == 0:
        for label, reason in result.kept.items():
            log.warning("%s keeps its weight %g: %s", label, result.weights[label], reason)
    return result


def frozen(store: Store, measure: Callable[[], Balanced], rank: int, world: int) -> tuple[Balanced, bool]:
    """What this run's weights were set to, from its folder `store`; measured and written there before its first step.

    Returns it, and whether it was there. All ranks call it together and get the same.

    Raises:
        StoreError: what was written is damaged.
        TrainingError: the run has begun, and it is lost.
    """
    there = of_first(lambda: _read(store), rank, world)
    if there is not None:
        return there, True
    result = measure()

    def write() -> Balanced:
        store.write_json(FILE, result.model_dump(mode="json"))
        return result

    return of_first(write, rank, world), False


def _read(store: Store) -> Balanced | None:
    fix = "Run again with --fresh to start over beside it"
    if not store.exists(FILE):
        if Checkpoints(store, keep=1).names():
            raise TrainingError(
                "the weights that this run was begun with are lost", where=store.path_uri(FILE), fix=fix
            )
        return None
    try:
        return Balanced.model_validate(store.read_json(FILE))
    except ValidationError as error:
        problem = f"does not hold balanced weights: {error.errors()[0]['msg']}"
        raise StoreError(problem, where=store.path_uri(FILE), fix=fix) from None
