"""What a training run is given, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from kdray.data.batch import Batch, TrainFeed
from kdray.experiment import Mix, Train
from kdray.models.outputs import Net, Outputs
from kdray.objectives.contract import Mixed, Targets
from kdray.train.checkpoint import Checkpoints
from kdray.train.phases import Phase
from kdray.train.precision import Precision
from kdray.train.task import Pixels, Teacher, Trainable


class Listener(Protocol):
    """Who hears of progress and may ask for a stop."""

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """Receive `balance`, `start`, `history`, `log`, `epoch` or `checkpoint` with JSON values.

        `history` comes after the `start` of a run that goes on, with the `rows` of the epochs before: those that were
        finished by earlier processes. What is raised on an `epoch` ends the run there.
        """

    def stop_requested(self) -> bool:
        """True once the user wants the run to save its state and end."""


@dataclass
class Job:
    """All that one training run needs. `rank` and `world` are 0 and 1 without torch.distributed.

    `trainable` and `train` are those of the first epoch, in a run of `phases`.
    """

    trainable: Trainable
    teacher: Teacher | None
    feed: TrainFeed
    train: Train
    pixels: Pixels
    precision: Precision
    device: torch.device
    seed: int
    listener: Listener
    validate: Callable[[Net], dict[str, float]] | None = None
    checkpoints: Checkpoints | None = None
    rank: int = 0
    world: int = 1
    deployed: Net | None = None
    mix: Mix | None = None
    phases: Sequence[Phase] = ()

    @property
    def network(self) -> Net:
        """What is validated, averaged and exported: `deployed` where an objective changes the network, else the one
        trained."""
        return self.trainable.net if self.deployed is None else self.deployed

    def inputs(
        self, piece: Batch, mixed: Mixed | None
    ) -> tuple[torch.Tensor, Targets, Outputs | None, list[nn.Linear | None]]:
        """What `trainable` takes of a micro-batch, before the step's info: normalised images, targets, what the teacher
        makes of them, and its head in a list."""
        needs = self.trainable.objectives.needs
        images = self.pixels.prepare(piece.images, self.precision)
        teacher = None
        if self.teacher is not None:
            same = self.teacher.pixels == self.pixels
            seen = images if same else self.teacher.pixels.prepare(piece.images, self.precision)
            teacher = self.teacher(seen, stages=needs.stages, preact=needs.preact)
        targets = Targets(labels=piece.labels, index=piece.index, views=piece.views, mixed=mixed)
        return images, targets, teacher, [self.teacher.head if self.teacher else None]


@dataclass
class Outcome:
    """What a finished run leaves: one row per epoch, and on rank 0 the weights to export."""

    history: list[dict[str, float]]
    last: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor] | None
    best_epoch: int | None
    steps: int
    resumed_from: int
    extra: dict[str, float] = field(default_factory=dict)
