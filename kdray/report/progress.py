"""Progress of a run: a bar on a terminal, plain lines in job logs; and Ctrl-C turned into a wish to stop."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from kdray.report.balance_text import balance_lines
from kdray.report.sweep_view import SweepView

LINE_EVERY_S = 30.0


class ProgressView:
    """Shows the events of a training loop and kdray's warnings; also catches Ctrl-C and SIGTERM while it is open.

    The first signal asks the run to save its state and end; the second one ends the command at once.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.title = ""
        self.epochs = self.steps = 0
        self._stop = False
        self._line_at = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._previous: dict[int, Any] = {}
        self._warnings = _Warnings(self)

    def __enter__(self) -> ProgressView:
        if threading.current_thread() is threading.main_thread():  # signals come to no other
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        logging.getLogger("kdray").addHandler(self._warnings)
        return self

    def __exit__(self, *_: object) -> None:
        self._close_bar()
        logging.getLogger("kdray").removeHandler(self._warnings)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True
        name = signal.Signals(number).name
        self.console.print(f"{name}: saving the state and stopping (once more: stop at once, losing what is unsaved)")

    def stop_requested(self) -> bool:
        """True after the first signal."""
        return self._stop

    def stage(self, title: str) -> None:
        """A new stage begins."""
        self._close_bar()
        self.title = title
        self.console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)

    def trials(self, metric: str, mode: str, wanted: int | None, max_epochs: int) -> SweepView:
        """The view of the trials of a search, or of a matrix's cells."""
        self._close_bar()
        return SweepView(self.console, metric, mode, wanted or 0, max_epochs)

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """Show one event of the loop."""
        if kind == "start":
            self._start(values)
        elif kind == "balance":
            for line in balance_lines(values):
                self.console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        elif kind == "log":
            self._log(values)
        elif kind == "epoch":
            self._epoch(values)
        elif kind == "warning":
            # Not markup: errors of others have brackets in them.
            self.console.print(Text.assemble(("warning:", "yellow"), f" {values['text']}"), soft_wrap=True)

    def _start(self, values: dict[str, Any]) -> None:
        self.epochs, self.steps = values["epochs"], values["steps"]
        if values["step"]:
            self.console.print(f"  goes on from step {values['step']}", highlight=False)
        self._line_at = time.monotonic()
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("  {task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task("step", total=self.epochs * self.steps, completed=values["step"], text="")
            self._bar.start()

    def _log(self, values: dict[str, Any]) -> None:
        text = (
            f"loss {values['loss/total']:.4g}  {values['images_per_s']:.0f} images/s  "
            f"data wait {100 * values['data_wait']:.1f} %"
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=values["step"], text=text)
        elif time.monotonic() - self._line_at >= LINE_EVERY_S:
            self._line_at = time.monotonic()
            where = f"epoch {values['epoch'] + 1}/{self.epochs} step {values['batch']}/{self.steps}"
            self.console.print(f"  {where}  {text}  lr {values['lr']:.4g}", highlight=False, soft_wrap=True)

    def _epoch(self, values: dict[str, Any]) -> None:
        self._line_at = time.monotonic()
        parts = [f"  epoch {values['epoch']}/{self.epochs}", f"loss {values['loss/total']:.4f}"]
        if "val/top1" in values:
            parts.append(f"val {100 * values['val/top1']:.2f} %")
        parts.append(f"{values['images_per_s']:.0f} images/s")
        parts.append(f"data wait {100 * values['data_wait']:.1f} %")
        self.console.print("  ".join(parts), highlight=False, soft_wrap=True)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM end what is in the block as Ctrl-C does; schedulers send it where a person presses keys."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Warnings(logging.Handler):
    """Shows kdray's warnings of this process as the ones that come from workers; the rest of logging stays as it is."""

    def __init__(self, view: ProgressView) -> None:
        super().__init__(logging.WARNING)
        self.view = view

    def emit(self, record: logging.LogRecord) -> None:
        self.view.event("warning", {"text": record.getMessage()})
