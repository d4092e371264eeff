"""A small training job without any data room: images are drawn from (epoch, batch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdray.data.batch import Batch
from kdray.experiment import Checkpointing, Mix, ModelSpec, Optimizer, Train
from kdray.models.zoo import build
from kdray.objectives import ObjectiveSet, Setup
from kdray.store import Store
from kdray.train.checkpoint import Checkpoints
from kdray.train.frozen import freeze
from kdray.train.job import Job
from kdray.train.loop import Loop
from kdray.train.phases import Phase
from kdray.train.precision import Precision
from kdray.train.task import Pixels, Trainable

torch.set_num_threads(1)  # these networks are too small to share between threads
CPU, FP32 = torch.device("cpu"), Precision("fp32", "cpu")
PIXELS = Pixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CLASSES, SIZE = 4, 16


class DrawnFeed:
    """Six batches an epoch of labelled noise; the batch is a function of (epoch, number) as a feed's must be."""

    steps_per_epoch, dropped, bad_images = 6, 0, 0
    bad_rows: frozenset[int] = frozenset()

    def __init__(self, batch: int = 8, spoil_at: int | None = None) -> None:
        self.batch = batch
        self.spoil_at = spoil_at

    def share_bad(self, rows: frozenset[int]) -> None:
        self.bad_rows |= rows

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for number in range(start, self.steps_per_epoch):
            generator = torch.Generator().manual_seed(1000 * epoch + number)
            labels = torch.randint(0, CLASSES, (self.batch,), generator=generator)
            noise = torch.randint(0, 64, (self.batch, 3, SIZE, SIZE), generator=generator)
            images = (noise + 40 * labels[:, None, None, None]).to(torch.uint8)
            index = torch.arange(self.batch) + number * self.batch
            yield Batch(images=images, labels=labels, index=index, ids=index, views=1)


class Listener:
    """Remembers events, and asks for a stop once `stop_at` steps were logged."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.stop_at = stop_at
        self.asked = 0

    def event(self, kind: str, values: dict[str, Any]) -> None:
        self.events.append((kind, values))

    def stop_requested(self) -> bool:
        self.asked += 1
        return self.stop_at is not None and self.asked >= self.stop_at


MakeLoop = Callable[..., Loop]


def train_of(**changes: Any) -> Train:
    """Three short epochs, with `changes`."""
    values: dict[str, Any] = {
        "epochs": 3,
        "batch": 8,
        "optimizer": Optimizer(lr=0.05),
        "log_every": 4,
        "checkpoint": Checkpointing(every_minutes=None),
        "precision": "fp32",
    }
    return Train(**(values | changes))


def build_loop(
    root: Path,
    folder: str | None = None,
    *,
    objectives: dict[str, Any] | None = None,
    listener: Listener | None = None,
    feed: Any = None,
    validate: Any = None,
    net_factory: Any = None,
    rank: int = 0,
    world: int = 1,
    mix: Mix | None = None,
    phases: Sequence[tuple[int, dict[str, Any], Train]] = (),
    **train: Any,
) -> Loop:
    """A loop over a tiny student (and teacher) whose checkpoints lie in `folder` of `root`."""
    config = train_of(**train)
    torch.manual_seed(1)
    teacher = build(ModelSpec(model="resnet8", params={"width": 0.5}), CLASSES, SIZE)
    student = build(ModelSpec(model="resnet8", params={"width": 0.25}), CLASSES, SIZE)
    if net_factory is not None:
        student = net_factory(student)
    setup = Setup(
        num_classes=CLASSES,
        num_samples=48,
        student=student.info,
        teacher=teacher.info,
        labels=np.arange(48) % CLASSES,
        batch=8,
        epochs=config.epochs,
        seed=0,
        mixed=mix is not None,
    )
    members = ObjectiveSet(objectives or {"ce": {}, "kd": {}}, setup)
    frozen = freeze(teacher, PIXELS, FP32, SIZE)
    job = Job(
        trainable=Trainable(student, members),
        teacher=frozen,
        feed=feed or DrawnFeed(),
        train=config,
        pixels=PIXELS,
        precision=FP32,
        device=CPU,
        seed=0,
        listener=listener or Listener(),
        validate=validate,
        checkpoints=Checkpoints(Store(str(root / folder)), keep=2) if folder else None,
        deployed=members.deployed(student, frozen.net),
        rank=rank,
        world=world,
        mix=mix,
        phases=[Phase(epoch, after, partial(ObjectiveSet, each, setup)) for epoch, each, after in phases],
    )
    return Loop(job)


@pytest.fixture
def make_loop(tmp_path: Path) -> MakeLoop:
    """`build_loop` in the test's own directory."""
    return partial(build_loop, tmp_path)
