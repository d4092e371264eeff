"""What a user brings along: a network without batch norm, and an objective that makes trouble when told to.

Copied as `own.py` to where a test's command runs. Trouble comes once: a file in `folder` remembers it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from kdray.objectives import LOSS, Objective, ObjectiveConfig


class TroubleConfig(ObjectiveConfig):
    """Steps at which something happens, on the worker `rank` alone."""

    folder: str
    rank: int = 0
    die_at: list[int] = Field(default_factory=list)  # SIGKILL, once for each
    nan_at: int | None = None  # a loss that is not finite, always
    raise_at: list[int] = Field(default_factory=list)  # an exception, once for each
    raise_always_at: int | None = None  # an exception whenever the step comes
    slow_from: int | None = None  # a quarter of a second for each step from here on, until a file `go` is there


class Trouble(Objective):
    """Adds nothing to the loss."""

    config = TroubleConfig
    provenance = "paper"
    family = "logits"
    source = "a test"

    def forward(self, targets, student, teacher, student_head, teacher_head, step) -> dict[str, Tensor]:
        options, now = self.options, step.step
        rank = dist.get_rank() if dist.is_initialized() else 0
        value = torch.zeros((), device=student.logits.device)
        if rank != options.rank:
            return {LOSS: value}
        if now in options.die_at and self._first(f"died-{now}"):
            os.kill(os.getpid(), signal.SIGKILL)
        if now in options.raise_at and self._first(f"raised-{now}"):
            raise ValueError(f"trouble at step {now}")
        if options.raise_always_at == now:
            raise ValueError(f"always trouble at step {now}")
        if options.slow_from is not None and now >= options.slow_from and not (Path(options.folder) / "go").exists():
            self._first("slow")
            time.sleep(0.25)
        return {LOSS: value + float("nan") if options.nan_at == now else value}

    def _first(self, name: str) -> bool:
        return first(Path(self.options.folder), name)


class FateConfig(ObjectiveConfig):
    """What becomes of a trial, so that a search can look for it."""

    folder: str
    # raise, die (once), hold or slow (until a file `go` is there), bad, two-nodes... (until one is on another node);
    # else nothing
    fate: str = "plain"
    at: int = 20  # the step from which on it happens; bad: always


class Fate(Objective):
    """Adds nothing to the loss, but for `bad`, which teaches wrong labels."""

    config = FateConfig
    provenance = "paper"
    family = "logits"
    source = "a test"

    def forward(self, targets, student, teacher, student_head, teacher_head, step) -> dict[str, Tensor]:
        options, folder = self.options, Path(self.options.folder)
        if options.fate == "bad":
            wrong = (targets.labels + 1) % student.logits.shape[1]
            return {LOSS: 5 * nn.functional.cross_entropy(student.logits, wrong)}
        if step.step >= options.at:
            if options.fate == "raise":
                raise FloatingPointError(f"fate at step {step.step}")
            if options.fate == "die" and first(folder, "died"):
                os.kill(os.getpid(), signal.SIGKILL)
            if options.fate.startswith("two-nodes"):
                import ray

                first(folder, f"node-{ray.get_runtime_context().get_node_id()}")
                until = time.monotonic() + 180
                while len(list(folder.glob("node-*"))) < 2 and time.monotonic() < until:
                    time.sleep(0.1)
            if options.fate in ("hold", "slow") and not (folder / "go").exists():
                first(folder, options.fate)
                time.sleep(0.25)
                while options.fate == "hold" and not (folder / "go").exists():
                    time.sleep(0.1)
        return {LOSS: torch.zeros((), device=student.logits.device)}


def first(folder: Path, name: str) -> bool:
    """True the first time; the file holds the process id of who came there."""
    try:
        with open(folder / name, "x", encoding="utf-8") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


class GroupNet(nn.Sequential):
    """Convolutions with group norm: no layer knows of other samples, so batches may be shared between workers."""

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.GroupNorm(2, width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(2, 2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, num_classes),
        )
