"""Whole-state checkpoints: written whole, found by themselves, read back only by the weights-only loader."""

from __future__ import annotations

import io
import logging
import re
import threading
import time
from typing import Any

import torch

from kdray.errors import StoreError, TrainingError
from kdray.store import Store

log = logging.getLogger(__name__)
FOLDER = "checkpoints"
PATTERN = re.compile(r"step-(\d{9})\.pt$")


def snapshot(state: Any) -> Any:
    """Copy `state` to host memory, so that training may go on while it is written.

    Tensors are cloned even when they are on the CPU already: the optimizer updates them in place.
    """
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return type(state)((key, snapshot(value)) for key, value in state.items())
    if isinstance(state, (list, tuple)):
        return type(state)(snapshot(value) for value in state)
    return state


class Checkpoints:
    """The checkpoints of one stage in its store folder, newest last; at most `keep` are kept.

    Only rank 0 writes. Writing happens on a thread, one at a time: a cadence faster than the storage waits for it.
    """

    def __init__(self, store: Store, keep: int) -> None:
        self.store = store
        self.keep = keep
        self.last_saved: str | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def names(self) -> list[str]:
        """File names of the checkpoints that are there, oldest first."""
        return sorted(name for name in self.store.list(FOLDER) if PATTERN.fullmatch(name))

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Start writing `state` as the checkpoint of `step`; returns once it is copied.

        Raises:
            StoreError: the previous write failed.
        """
        copied = snapshot(state)
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(step, copied), name="checkpoint-writer")
        self._thread.start()

    def wait(self) -> None:
        """Block until the write under way is done; raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def settle(self) -> None:
        """Block until the write under way is done, where another error is on its way: a failed write is a warning."""
        try:
            self.wait()
        except Exception as error:
            log.warning("the last checkpoint was not written: %s", error)

    def _write(self, step: int, state: dict[str, Any]) -> None:
        try:
            started = time.perf_counter()
            buffer = io.BytesIO()
            torch.save(state, buffer)
            name = f"step-{step:09d}.pt"
            self.store.write_bytes(f"{FOLDER}/{name}", buffer.getbuffer())
            self.last_saved = self.store.path_uri(f"{FOLDER}/{name}")
            log.debug("checkpoint of step %d written in %.2f s", step, time.perf_counter() - started)
            for old in self.names()[: -self.keep]:
                self.store.delete(f"{FOLDER}/{old}")
        except BaseException as error:  # handed to the training thread by wait()
            self._error = error

    def load_latest(self) -> dict[str, Any] | None:
        """Return the newest readable checkpoint, or None when there is none.

        A checkpoint that does not read (a damaged disk) is passed over with a warning: an older one loses less than a
        start from nothing. None readable among several is an error, never a silent restart.

        Raises:
            TrainingError: checkpoints are there and none of them can be read.
        """
        names = self.names()
        for name in reversed(names):
            uri = self.store.path_uri(f"{FOLDER}/{name}")
            try:
                data = self.store.read_bytes(f"{FOLDER}/{name}")
                state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            except StoreError:
                raise
            except Exception as error:
                log.warning("checkpoint %s cannot be read (%s); trying the one before", uri, error)
                continue
            self.last_saved = uri
            return state
        if names:
            raise TrainingError(
                f"none of the {len(names)} checkpoints can be read",
                where=self.store.path_uri(FOLDER),
                fix="Run again with --fresh to start over beside them",
            )
        return None

    def clear(self) -> None:
        """Remove the checkpoints, and what a killed writer left beside them, once the finished artifact stands."""
        self.wait()
        self.store.delete(FOLDER)
