"""What a run measures while it trains: losses without device syncs, wall clock, time spent waiting for data."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from kdray.errors import TrainingError


@dataclass(frozen=True)
class Flushed:
    """What a look at the last steps found: their losses `rows` [count, parts + 1], whether any rank wants to `stop`, to
    `save`, or has met `bad` images, and what the rank that waited longest for data has `waited`, in seconds. The others
    wait for that one inside the step, where no clock tells it from computing.
    """

    rows: torch.Tensor
    stop: bool
    save: bool
    bad: bool
    waited: float


class LossWindow:
    """The losses of the last steps, kept on the device until somebody looks.

    One row per step, one column per objective part and the weighted total last. `flush` brings the rows to the host in
    a single transfer, averaged over ranks; `check` says which step and which part went wrong. A part that a step did
    not compute (its schedule was at 0) counts as 0 there.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        self.device = device
        self.names: list[str] = ["total"]
        self._steps: list[tuple[tuple[str, ...], torch.Tensor]] = []

    @property
    def count(self) -> int:
        """Steps since the last flush."""
        return len(self._steps)

    @property
    def full(self) -> bool:
        """True when it is time to look."""
        return self.count >= self.size

    def add(self, total: torch.Tensor, parts: dict[str, torch.Tensor]) -> None:
        """Keep one step's losses (0-dim tensors) without waiting for them."""
        values = [value.detach().float() for value in parts.values()]
        self._steps.append((tuple(parts), torch.stack([*values, total.detach().float()])))

    def flush(self, stop: bool, save: bool, bad: bool, waited: float) -> Flushed:
        """Bring the rows to the host, and tell the ranks of each other.

        A collective: every rank calls it at the same steps. The flags ride along so that ranks act on them together.
        """
        seen = dict.fromkeys(name for names, _ in self._steps for name in names)
        self.names = [*seen, "total"]
        table = torch.zeros(self.count, len(self.names), device=self.device)
        for row, (names, values) in enumerate(self._steps):
            if len(names) + 1 == len(self.names):
                table[row] = values
            else:
                table[row, [*(self.names.index(name) for name in names), -1]] = values
        self._steps.clear()
        world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        waits = [0.0] * world
        waits[rank] = waited
        told = torch.tensor([float(stop), float(save), float(bad), *waits], device=self.device)
        packed = torch.cat([table.flatten() / world, told])
        if world > 1:
            dist.all_reduce(packed)
        host = packed.cpu()
        flags = host[table.numel() :]
        any_stop, any_save, any_bad = (flags[:3] > 0).tolist()
        return Flushed(host[: table.numel()].view(table.shape), any_stop, any_save, any_bad, flags[3:].max().item())

    def check(
        self,
        rows: torch.Tensor,
        first_step: int,
        limit: float,
        last_saved: str | None,
        reported_only: Collection[str] = (),
    ) -> None:
        """Raise TrainingError for the first step whose loss is not finite, or whose total is above `limit`.

        Parts that are `reported_only`, with no weight in the total, are not blamed for its growth.
        """
        good = f"The last good checkpoint is {last_saved}" if last_saved else "No checkpoint had been written yet"
        way_out = f"{good}; lower the learning rate or the weight of that part, or clip gradients (train.clip_norm)"
        finite = torch.isfinite(rows)
        if not bool(finite.all()):
            index = int((~finite).any(dim=1).nonzero()[0, 0])
            blamed = [name for name, ok in zip(self.names, finite[index].tolist(), strict=True) if not ok]
            blamed = [name for name in blamed if name != "total"] or ["total"]
            step = first_step + index
            raise TrainingError(f"the loss is not finite at step {step}: {', '.join(blamed)}", fix=way_out)
        worst = int(rows[:, -1].argmax())
        if float(rows[worst, -1]) > limit:
            # Parts may have very different scales; the one that grew beyond the window's start most is to blame.
            growth = rows[worst, :-1].abs() / rows[0, :-1].abs().clamp_min(1e-6)
            growth[[name in reported_only for name in self.names[:-1]]] = 0
            blamed_part = self.names[int(growth.argmax())]
            raise TrainingError(
                f"the loss diverges at step {first_step + worst}: {float(rows[worst, -1]):.4g} is above "
                f"{limit:.4g} (train.divergence_factor times its start); {blamed_part} grew most",
                fix=way_out,
            )


class EpochMeter:
    """Sums of one epoch: losses, images, seconds, seconds waited for data. Its state survives a resume."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start a new epoch."""
        self.sums: dict[str, float] = {}
        self.steps = 0
        self.images = 0
        self.seconds = 0.0
        self.data_wait = 0.0

    def add(self, names: Sequence[str], rows: torch.Tensor) -> None:
        """Add the losses of some steps, [steps, len(names)]."""
        for name, value in zip(names, rows.double().sum(dim=0).tolist(), strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += len(rows)

    def summary(self) -> dict[str, float]:
        """Mean losses of the epoch, images per second of wall clock, share of the wall clock spent waiting for data."""
        steps, seconds = max(1, self.steps), max(1e-9, self.seconds)
        return {
            **{f"loss/{name}": value / steps for name, value in self.sums.items()},
            "images_per_s": self.images / seconds,
            "data_wait": self.data_wait / seconds,
            "seconds": self.seconds,
        }

    def state_dict(self) -> dict:
        """State to checkpoint."""
        return {k: getattr(self, k) for k in ("sums", "steps", "images", "seconds", "data_wait")}

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict`."""
        for key, value in state.items():
            setattr(self, key, value)


class Divergence:
    """Decides above which total loss a run has diverged: `factor` times the mean of its first window."""

    def __init__(self, factor: float | None) -> None:
        self.factor = factor
        self.start: float | None = None

    def limit(self, rows: torch.Tensor) -> float:
        """Return the limit that holds for `rows` (infinite while the first window is the yardstick)."""
        if self.factor is None:
            return math.inf
        if self.start is None:
            mean = float(rows[:, -1].abs().mean())
            if math.isfinite(mean):
                self.start = mean
            return math.inf
        return self.factor * max(self.start, 1e-3)


class Stopwatch:
    """Wall clock between calls, in seconds."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last call (or the construction)."""
        now = time.perf_counter()
        elapsed, self.last = now - self.last, now
        return elapsed
