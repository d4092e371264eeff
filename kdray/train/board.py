"""TensorBoard scalars of one stage, beside its artifact, wherever the store is."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from kdray.store import Store
from kdray.train.job import Listener

FOLDER = "tensorboard"


class Board:
    """A listener that also writes scalars: losses and speed at every log step, validation at every epoch.

    Event files grow in a scratch folder and go whole into the store after every epoch: object stores do not append.
    A resumed run writes a file of its own that purges the steps which are taken again.
    """

    def __init__(self, store: Store, inner: Listener) -> None:
        self.store = store
        self.inner = inner
        self.folder = Path(tempfile.mkdtemp(prefix="kdray-board-"))
        self.writer: SummaryWriter | None = None
        self.steps_per_epoch = 1

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """Write what is a number, then pass the event on."""
        if kind == "start":
            self.steps_per_epoch = int(values["steps"])
            self.writer = SummaryWriter(str(self.folder), purge_step=int(values["step"]))
        elif self.writer is not None and kind == "log":
            self._scalars(values, int(values["step"]), skip={"step", "epoch", "batch"})
        elif self.writer is not None and kind == "epoch":
            validation = {key: value for key, value in values.items() if key.startswith("val/")}
            self._scalars(validation, int(values["epoch"]) * self.steps_per_epoch, skip=set())
            self.writer.flush()
            self._upload()
        self.inner.event(kind, values)

    def _scalars(self, values: dict[str, Any], step: int, skip: set[str]) -> None:
        assert self.writer is not None
        for key, value in values.items():
            if key not in skip:
                self.writer.add_scalar(key, value, step)

    def _upload(self) -> None:
        for path in sorted(self.folder.iterdir()):
            self.store.put_file(f"{FOLDER}/{path.name}", str(path))

    def stop_requested(self) -> bool:
        """Ask the listener behind."""
        return self.inner.stop_requested()

    def close(self) -> None:
        """Put the last events into the store and remove the scratch folder, which goes in any case."""
        try:
            if self.writer is not None:
                self.writer.close()
                self._upload()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
