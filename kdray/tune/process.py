"""What runs a trial: a Ray Tune trainable whose step is one epoch.

A trial with one worker trains in this very process: no controller, no placement group of its own. One with several is a
Ray Train run that this process watches. Ray Tune may give the process trial after trial; what torch and the decoded
images cost to load is then paid once.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import queue
import threading
import time
import traceback
from typing import Any

import ray
import torch
from ray import tune

from kdray.errors import ClusterError, Interrupted, KdrayError, StoreError
from kdray.store import Store
from kdray.train.control import RemoteListener
from kdray.train.failure import first_line
from kdray.tune.work import Work

log = logging.getLogger(__name__)

EPOCH, OBJECTIVE, TOLD = "epoch", "objective", "told"
"""Columns of a result: finished epochs, the metric in the last one, and all that the journal wants (JSON)."""
END_S = 120.0


class TrialProcess(tune.Trainable):
    """One trial after another, each in a thread that waits at the end of an epoch until Ray Tune has decided."""

    def setup(self, config: dict[str, Any], work: Work, control: Any) -> None:  # type: ignore[override]
        """Begin with the trial of `config`: its `number` and, as JSON, its `changes`."""
        self.work = work
        self.listener = RemoteListener(control)
        self.forward = Forwarder(self)
        logging.getLogger("kdray").addHandler(self.forward)
        self.entered = contextlib.ExitStack()
        self.entered.enter_context(work.enter())
        self.run: TrialRun | None = None
        self.spoiled = False

    def step(self) -> dict[str, Any]:
        """Train on to the end of the next epoch; the result of the last one has `done`."""
        if self.spoiled:
            # After an error that nobody planned for (CUDA's say that every further call will fail) the process must go,
            # and an error is the only end of a trial after which Ray Tune gives its process no other trial.
            raise RuntimeError("this process is not to be used again")
        if self.run is None:
            self.run = TrialRun(self.work, self.config, self.listener)
        result = self.run.next()
        self.spoiled = self.spoiled or bool(json.loads(result[TOLD]).get("spoiled"))
        return result

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the trial and take another."""
        self._end_run()
        self.config = new_config
        return True

    def cleanup(self) -> None:
        """End: Ray Tune takes the process away."""
        self._end_run()
        logging.getLogger("kdray").removeHandler(self.forward)
        self.listener.close()
        self.entered.close()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing: the state of the trial was written at the end of the epoch."""
        return {"number": self.config["number"]}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing: a trial finds its state by itself, in its own folder."""

    def _end_run(self) -> None:
        if self.run is not None:
            self.run.end()
            self.run = None
            gc.collect()  # a network and its optimizer hold each other
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # a GPU may be shared with other trials


class TrialRun:
    """A trial's stage in a thread of its own."""

    def __init__(self, work: Work, config: dict[str, Any], listener: RemoteListener) -> None:
        self.work = work
        self.number = int(config["number"])
        self.outer = listener
        self.max_epochs = 0  # these two `Work.run` says
        self.store: Store | None = None
        self.until = int(config.get("until", 0))
        self._results: queue.Queue[dict[str, Any] | Exception] = queue.Queue()
        self._go = threading.Semaphore(0)
        self._ending = threading.Event()
        self._rows: list[dict[str, Any]] = []
        self._told = 0
        self._started = time.time()
        self._thread = threading.Thread(target=self._work, args=(config,), name=f"trial-{self.number}", daemon=True)
        self._begun = False

    @property
    def _epoch(self) -> int:
        """Epochs that are finished."""
        return int(self._rows[-1][EPOCH]) if self._rows else 0

    def next(self) -> dict[str, Any]:
        """Let the thread go on, and wait for its next result."""
        if not self._begun:
            self._begun = True
            self._thread.start()
        else:
            self._go.release()
        result = self._results.get()
        if isinstance(result, Exception):
            raise result
        return result

    def end(self) -> None:
        """Make the thread stop where it is, and wait for it."""
        self._ending.set()
        self._go.release()
        if self._begun:
            self._thread.join(END_S)
            if self._thread.is_alive():
                log.warning("trial %d does not stop; its process ends", self.number)
                ray.actor.exit_actor()

    # -- in the trial's thread -----------------------------------------------------------------------------------------

    def _work(self, config: dict[str, Any]) -> None:
        try:
            record = self.work.run(config, self)
        except _Ended:
            return
        except Interrupted as error:
            self._tell(ended="waiting", error=error.problem)
        except (StoreError, ClusterError) as error:
            # It may pass: Ray Tune starts the process anew, and the trial goes on from its checkpoint.
            self._results.put(error)
        except KdrayError as error:
            self._tell(ended="failed", error=str(error))
        except BaseException as error:
            self._leave("".join(traceback.format_exception(error)))
            self._tell(ended="failed", error=first_line(error), spoiled=True)
        else:
            self._rows, self._told = list(record.get("history") or self._rows), 0
            self._tell(ended="done", facts=facts(record))

    def _leave(self, trace: str) -> None:
        """Put the traceback of an error that nobody planned for into the trial's artifact."""
        if self.store is not None:
            with contextlib.suppress(StoreError):  # the store may be what failed
                self.store.write_text("traceback.txt", trace)

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """As a listener of the training: hand on a finished epoch, and wait for what Ray Tune makes of it."""
        if kind in ("history", "epoch"):
            self._rows = [dict(row) for row in values["rows"]] if kind == "history" else [*self._rows, dict(values)]
            ended = self._ended()
            # What was trained by an earlier process is told with the next epoch, unless there is to be none.
            if ended is not None or (kind == "epoch" and self._epoch < self.max_epochs):
                self._tell(ended=ended)
                self._wait()
        elif kind == "warning":
            self.outer.event("warning", {"text": f"trial {self.number}: {values['text']}"})
        elif kind == "balance":
            self.outer.event("balance", {"number": self.number, **values})

    def _ended(self) -> str | None:
        """The state in which this trial ends before its last epoch, None while it goes on.

        The last epoch is told of when all is evaluated and written: a trial that is stopped there has no model.
        """
        if not 0 < self._epoch < self.max_epochs:
            return None
        if self.work.goal.spent(self._rows):
            return "done"
        return "waiting" if 0 < self.until <= self._epoch else None

    def stop_requested(self) -> bool:
        """Whether the command, or Ray Tune, wants this trial to save its state and stop."""
        return self._ending.is_set() or self.outer.stop_requested()

    def _wait(self) -> None:
        if not self.work.in_process:  # its workers are elsewhere: they see `stop_requested`
            return
        self._go.acquire()
        if self._ending.is_set():
            raise _Ended

    def _tell(self, ended: str | None = None, **more: Any) -> None:
        rows, self._told = self._rows[self._told :], len(self._rows)
        told = {"rows": rows, "ended": ended, "wall_s": time.time() - self._started, **more}
        last = self._rows[-1] if self._rows else {}
        value = last.get(self.work.goal.metric)
        result: dict[str, Any] = {TOLD: json.dumps(told), EPOCH: self._epoch}
        if more.get("spoiled"):  # not done, nor anything that a scheduler would judge: the next step ends it
            self._results.put(result)
            return
        if value is not None and math.isfinite(value):
            result[OBJECTIVE] = float(value)
        if ended is not None:
            result["done"] = True
        self._results.put(result)


def facts(record: dict[str, Any]) -> dict[str, Any]:
    """What a trial's record is worth in a search: where and how it ran. Not what test says: nobody may choose by it."""
    return {key: record.get(key) for key in ("device", "precision", "threads", "world_size", "parameters")}


class Forwarder(logging.Handler):
    """Sends kdray's warnings of a trial's process to the command, which is where a person looks."""

    def __init__(self, process: TrialProcess) -> None:
        super().__init__(logging.WARNING)
        self.process = process

    def emit(self, record: logging.LogRecord) -> None:
        """Forward one record, with the trial that it is about."""
        number = self.process.config.get("number")
        self.process.listener.event("warning", {"text": f"trial {number}: {record.getMessage()}"})


class _Ended(Exception):
    """Ray Tune wants no more of this trial."""
