"""The training loop: one for teachers and students, with or without Ray, pure torch.

A run is a position. Order, augmentation and dropout are functions of (seed, position), the learning rate of the step;
so a run continued from a checkpoint takes the same steps, bit for bit on a CPU, as one that was never interrupted.
Nothing reads a value from the device between log steps.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from kdray.data.batch import Batch
from kdray.data.mix import Mixer
from kdray.errors import Interrupted, TrainingError
from kdray.objectives.contract import StepInfo
from kdray.train.agree import check_same_step, union
from kdray.train.checkpoint import snapshot
from kdray.train.convolutions import safe_convolutions
from kdray.train.ema import Ema
from kdray.train.job import Job, Outcome
from kdray.train.meter import Divergence, EpochMeter, LossWindow, Stopwatch
from kdray.train.optim import lr_at, make_optimizer
from kdray.train.phases import Phases
from kdray.train.seed import set_seed
from kdray.train.task import pieces, shared_by_ranks

log = logging.getLogger(__name__)
STATE_FORMAT = 1


class Loop:
    """One training run of a `Job`; `run` takes it from its latest checkpoint to its end."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.train = job.train  # of the phase that holds
        self.steps_per_epoch = job.feed.steps_per_epoch
        self.window = LossWindow(self.train.log_every, job.device)
        self.meter = EpochMeter()
        self.divergence = Divergence(self.train.divergence_factor)
        self.optimizer = make_optimizer(self.train, [job.trainable])
        self.phases = Phases(job.phases, job.trainable, self.optimizer, job.device)
        self.scaler = job.precision.scaler()
        self.ema = Ema(job.network, self.train.ema) if self.train.ema is not None else None
        self.mixer = Mixer(job.mix, job.seed, job.train.batch, job.world) if job.mix is not None else None
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None
        self.waited = 0.0  # seconds for data since the last look
        self.bad_known = 0  # images that do not decode, of those that all ranks know of
        self.epoch, self.batch = 0, 0
        self.resumed_from = 0
        self.first_step_at: float | None = None  # time of day, for measuring start-up from outside
        self.began, self.earlier_s = time.monotonic(), 0.0  # earlier_s: of the processes that this one goes on from
        self.clock = Stopwatch()
        self.saved_at = time.monotonic()
        self.wrapped: nn.Module = job.trainable

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Optimizer steps taken so far, over all epochs."""
        return self.epoch * self.steps_per_epoch + self.batch

    def state_dict(self) -> dict[str, Any]:
        """Everything a continued run needs."""
        return {
            "format": STATE_FORMAT,
            "position": {"epoch": self.epoch, "batch": self.batch, "steps_per_epoch": self.steps_per_epoch},
            "seed": self.job.seed,
            "trainable": self.job.trainable.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "meter": self.meter.state_dict(),
            "divergence": self.divergence.start,
            "history": self.history,
            "best": self.best,
            "wall_s": self.earlier_s + time.monotonic() - self.began,
            "bad_rows": sorted(self.job.feed.bad_rows),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            TrainingError: the checkpoint is of another format or of another data size.
        """
        position = state["position"]
        if state["format"] != STATE_FORMAT or position["steps_per_epoch"] != self.steps_per_epoch:
            raise TrainingError(
                f"the checkpoint is of {position['steps_per_epoch']} steps an epoch (format {state['format']}), "
                f"this run has {self.steps_per_epoch} (format {STATE_FORMAT})",
                fix="Run again with --fresh to start over beside it",
            )
        self.epoch, self.batch = position["epoch"], position["batch"]
        self.job.trainable.load_state_dict(state["trainable"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.meter.load_state_dict(state["meter"])
        self.divergence.start = state["divergence"]
        self.history, self.best = state["history"], state["best"]
        self.earlier_s = state.get("wall_s", 0.0)
        self.job.feed.share_bad(frozenset(state["bad_rows"]))
        self.bad_known = len(self.job.feed.bad_rows)
        self.resumed_from = self.step

    def save(self) -> None:
        """Write a checkpoint of this position (rank 0), after making sure that the weights are sound (all ranks)."""
        self.saved_at = time.monotonic()
        norms = torch._foreach_norm([p.detach() for p in self.job.trainable.parameters()])
        if not bool(torch.isfinite(torch.stack(norms)).all()):
            last = self.job.checkpoints.last_saved if self.job.checkpoints else None
            raise TrainingError(
                f"a weight is not finite after step {self.step - 1}",
                fix=f"The last good checkpoint is {last}; lower the learning rate or clip gradients (train.clip_norm)",
            )
        if self.job.checkpoints:
            self.job.trainable.objectives.collect()
            if self.job.rank == 0:
                self.job.checkpoints.save(self.step, self.state_dict())
                self.job.listener.event("checkpoint", {"step": self.step})

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Train to the end and return the outcome.

        Raises:
            TrainingError: a loss or a weight is not finite, or the loss diverges.
            Interrupted: the listener asked for a stop; the state is saved.
            Exception: what the listener raised, at the end of an epoch for example; what was saved stays.
        """
        job = self.job
        state = job.checkpoints.load_latest() if job.checkpoints else None
        if state is not None:
            self.load_state_dict(state)
        check_same_step(self.step, job.world)
        if job.world > 1:
            self.wrapped = shared_by_ranks(job.trainable, job.device)
        if self.train.compile:
            job.trainable.net.compile()
            if job.teacher is not None:
                job.teacher.net.compile()
        if job.rank == 0:
            facts = {"step": self.step, "epochs": self.train.epochs, "steps": self.steps_per_epoch}
            job.listener.event("start", facts)
            if state is not None:
                job.listener.event("history", {"rows": [dict(row) for row in self.history]})
        try:
            while self.epoch < self.train.epochs:
                self._enter_phase()
                with safe_convolutions(job.trainable, job.device):
                    self._train_epoch()
                self._finish_epoch()
        except Exception as error:
            error.add_note(f"at step {self.step}")
            if job.checkpoints:
                job.checkpoints.settle()
            raise
        if job.checkpoints:
            job.checkpoints.wait()
        final = self.ema.shadow if self.ema else job.network
        return Outcome(
            history=self.history,
            last=snapshot(final.backbone.state_dict()),
            best=self.best["weights"] if self.best else None,
            best_epoch=self.best["epoch"] if self.best else None,
            steps=self.step,
            resumed_from=self.resumed_from,
            extra={
                "bad_images": len(union(job.feed.bad_rows, job.world)),
                "dropped_per_epoch": job.feed.dropped,
                "earlier_s": self.earlier_s,
                "first_step_at": self.first_step_at or 0.0,
            },
        )

    def _enter_phase(self) -> None:
        phase = self.phases.enter(self.epoch)
        if phase is not None:
            self.train = phase.train
            if self.step == phase.from_epoch * self.steps_per_epoch:
                self.divergence.start = None  # the total may have another scale from here on

    def _train_epoch(self) -> None:
        every = self.train.checkpoint.every_steps
        self.job.trainable.train()
        self.clock.lap()
        for batch in self._timed(self.job.feed.epoch(self.epoch, self.batch)):
            self._step(batch)
            self.batch += 1
            self.meter.images += batch.images.shape[0] * self.job.world
            due = every is not None and self.step % every == 0
            alone = self.job.world == 1 and self.job.listener.stop_requested()
            if self.window.full or due or alone:
                self._look(save=due)
        if self.batch != self.steps_per_epoch:
            raise TrainingError(
                f"epoch {self.epoch} gave {self.batch} batches, {self.steps_per_epoch} were planned",
                fix="The data changed under the run: pack it again, and start over with --fresh",
            )
        self._look(save=False)

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass `batches` on, adding up what the loop waits for them."""
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _step(self, batch: Batch) -> None:
        job = self.job
        set_seed(job.seed, self.step, job.rank)
        lr = lr_at(self.train, self.step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        info = StepInfo(epoch=self.step / self.steps_per_epoch, epochs=self.train.epochs, step=self.step, seed=job.seed)
        total, parts = self._forward_backward(batch, info)
        if self.train.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(job.trainable.parameters(), self.train.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update()
        self.window.add(total, parts)
        if self.first_step_at is None:
            self.first_step_at = time.time()

    def _forward_backward(self, batch: Batch, info: StepInfo) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        job, cuts = self.job, self.train.accumulate
        share = 1 / cuts
        totals: torch.Tensor | None = None
        sums: dict[str, torch.Tensor] = {}
        for number, (piece, mixed) in enumerate(pieces(batch, cuts, self.mixer, self.epoch, self.batch)):
            inputs = job.inputs(piece, mixed)
            last = number == cuts - 1
            hold = contextlib.nullcontext() if last or job.world == 1 else self.wrapped.no_sync()  # type: ignore[operator]
            with hold:
                with job.precision.autocast():
                    total, parts = self.wrapped(*inputs, info)
                self.scaler.scale(total * share if share != 1 else total).backward()
            total = total.detach() * share
            totals = total if totals is None else totals + total
            sums = {k: v * share + sums[k] if k in sums else v * share for k, v in parts.items()}
        assert totals is not None
        return totals, sums

    def _look(self, save: bool) -> None:
        """Read the window's losses: check them, log them, then save or stop if it is time (all ranks together)."""
        job, minutes = self.job, self.train.checkpoint.every_minutes
        overdue = minutes is not None and time.monotonic() - self.saved_at > 60 * minutes
        count = self.window.count
        bad = len(job.feed.bad_rows) > self.bad_known
        found = self.window.flush(job.listener.stop_requested(), overdue and job.rank == 0, bad, self.waited)
        rows, self.waited = found.rows, 0.0
        self.meter.seconds += self.clock.lap()
        self.meter.data_wait += found.waited
        if found.bad:
            job.feed.share_bad(union(job.feed.bad_rows, job.world))
            self.bad_known = len(job.feed.bad_rows)
        if count:
            last = job.checkpoints.last_saved if job.checkpoints else None
            limit, silent = self.divergence.limit(rows), job.trainable.reported_only
            self.window.check(rows, self.step - count, limit, last, silent)
            self.meter.add(self.window.names, rows)
            self._report(rows)
        if save or found.save or found.stop:
            self.save()
        if found.stop:
            if job.checkpoints:
                job.checkpoints.wait()
            raise Interrupted(f"stopped at step {self.step}, state saved", fix="The same command goes on from there")
        self.clock.lap()

    def _report(self, rows: torch.Tensor) -> None:
        if self.job.rank != 0:
            return
        means = rows.mean(dim=0).tolist()
        values = {f"loss/{name}": value for name, value in zip(self.window.names, means, strict=True)}
        speed = self.meter.summary()
        values |= {k: speed[k] for k in ("images_per_s", "data_wait")}
        values |= {"lr": lr_at(self.train, max(0, self.step - 1), self.steps_per_epoch)}
        self.job.listener.event("log", {"step": self.step, "epoch": self.epoch, "batch": self.batch, **values})

    def _finish_epoch(self) -> None:
        job = self.job
        row: dict[str, float] = {"epoch": self.epoch + 1, **self.meter.summary()}
        row["lr"] = lr_at(self.train, self.step - 1, self.steps_per_epoch)
        self.epoch, self.batch = self.epoch + 1, 0
        every = self.train.eval_every
        final = self.epoch == self.train.epochs
        if job.validate is not None and (final or (every and self.epoch % every == 0)):
            net = self.ema.shadow if self.ema else job.network
            result = job.validate(net)
            row |= {f"val/{key}": value for key, value in result.items()}
            if self.best is None or result["top1"] > self.best["top1"]:
                weights = snapshot(net.backbone.state_dict())
                self.best = {"top1": result["top1"], "epoch": self.epoch, "weights": weights}
        self.history.append(row)
        self.meter.reset()
        cadence = self.train.checkpoint.every_epochs
        due = cadence is not None and self.epoch % cadence == 0
        if due:
            self.save()
            if job.checkpoints:
                job.checkpoints.wait()  # who hears of this epoch may go on from it, in another process too
        if job.rank == 0:
            job.listener.event("epoch", dict(row))
        if final and not due:
            self.save()
