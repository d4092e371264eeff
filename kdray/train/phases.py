"""The phases of a run: what changes at the border of an epoch, and how the run goes on all the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kdray.experiment import Train
from kdray.objectives import ObjectiveSet
from kdray.objectives.handover import take_over
from kdray.train.optim import follow_weight_decay
from kdray.train.task import Trainable


@dataclass(frozen=True)
class Phase:
    """What holds once `from_epoch` epochs are finished. `build` makes the objectives, with a state of their own."""

    from_epoch: int
    train: Train
    build: Callable[[], ObjectiveSet]


class Phases:
    """Changes `trainable` and `optimizer` from phase to phase. What they have learned stays: every tensor is kept."""

    def __init__(
        self,
        phases: Sequence[Phase],
        trainable: Trainable,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
    ) -> None:
        self.phases = phases
        self.trainable = trainable
        self.optimizer = optimizer
        self.device = device
        self.entered: Phase | None = None

    def enter(self, epoch: int) -> Phase | None:
        """Enter the phase that holds at `epoch` (0-based) and return it; None where it holds already.

        Ranks need not meet here: each knows by itself.
        """
        begun = [phase for phase in self.phases if phase.from_epoch <= epoch]
        if not begun or begun[-1] is self.entered:
            return None
        self.entered = begun[-1]
        objectives = self.entered.build()
        take_over(objectives, self.trainable.objectives)
        self.trainable.objectives = objectives.to(self.device)  # constants of its own are where they were made
        follow_weight_decay(self.optimizer, self.entered.train, [self.trainable])
        return self.entered
