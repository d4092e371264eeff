"""The trials of a search while they run: a live table on a terminal, plain lines in job logs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kdray.report.sweep_state import Line, SweepState
from kdray.report.text import duration
from kdray.report.trial_text import ENDED, metric_text, parameters_text, short_names, value_text

REDRAWS_PER_S = 4
LINE_EVERY_S = 30.0  # a trial's epochs in a log
SUMMARY_EVERY_S = 180.0
TICK_S = 1.0
COLORS = {"running": "cyan", "done": "green", "stopped": "yellow", "failed": "red"}
FRAME = 5  # lines of the table that are no trial: two of summary, the header, what is left out, one free
GAP = 2


class SweepView:
    """Shows each trial that `update` is called with; a context manager, for any thread.

    On a terminal the table is drawn at most four times a second, however often trials change. In a log each trial has a
    line when it starts and ends and one per epoch, those at most every 30 s: an epoch that came too soon is shown when
    the time has come, unless a later one or the trial's end says more.
    """

    def __init__(self, console: Console, metric: str, mode: str, wanted: int, max_epochs: int | None) -> None:
        self.console = console
        self.state = SweepState(metric, mode, wanted, max_epochs, time.monotonic())
        self._lock = threading.RLock()
        self._live: Live | None = None
        self._ended = threading.Event()
        self._ticker: threading.Thread | None = None
        self._shown_s: dict[int, float] = {}  # when a trial last had a line
        self._late: dict[int, Line] = {}  # epochs that came too soon after that
        self._said: dict[int, dict[str, Any]] = {}  # parameters as they were last printed
        self._earlier = 0
        self._failures: list[Line] = []
        self._summary_s = self.state.begun_s

    def __enter__(self) -> SweepView:
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._table, console=self.console, refresh_per_second=REDRAWS_PER_S, transient=True
            )
            self._live.start()
        self._ticker = threading.Thread(target=self._tick_on, name="kdray-sweep-view", daemon=True)
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._ticker is not None:
            self._ticker.join()
        self._tell_failures()
        if self._live is not None:
            self._live.stop()
            self._live = None
        with self._lock:
            for number in sorted(self._late):
                self._epoch(self._late[number])
            self._late.clear()
            self._tell_earlier()
            self._print("  ".join(self.state.summary(time.monotonic())))

    def update(self, trial: dict[str, Any]) -> None:
        """Show a trial that changed. One that ended before it was first seen is counted, and told only if failed."""
        with self._lock:
            before, now = self.state.update(trial, time.monotonic())
            if self._live is None:
                self._log(before, now)
            elif now.state == "failed" and (before is None or before.state != "failed"):
                self._failures.append(now)  # the table has no room for the reason

    def warning(self, text: str) -> None:
        """Show a warning, as it is, above the table."""
        # Without the lock: printing waits for a redraw, which waits for the lock.
        self.console.print(Text.assemble(("warning:", "yellow"), f" {text}"), soft_wrap=True)

    def tick(self) -> None:
        """Print what is due by now: in a log epochs that came too soon, and the summary; on a terminal failures."""
        if self._live is not None:
            self._tell_failures()
            return
        with self._lock:
            now_s = time.monotonic()
            for number in sorted(n for n in self._late if now_s - self._shown_s[n] >= LINE_EVERY_S):
                self._epoch(self._late.pop(number))
            if now_s - self._summary_s >= SUMMARY_EVERY_S:
                self._summary_s = now_s
                self._tell_earlier()
                self._print("  ".join(self.state.summary(now_s)))

    def _tell_failures(self) -> None:
        """Print the failures since the last time, at once: each print draws the table again."""
        with self._lock:
            failures, self._failures = self._failures, []
        if failures:  # without the lock, as a warning
            self._print("\n  ".join(map(self._end, failures)))

    def _tick_on(self) -> None:
        while not self._ended.wait(TICK_S):
            self.tick()

    # A job's log

    def _log(self, before: Line | None, now: Line) -> None:
        if before is None and now.state in ("done", "stopped"):
            self._earlier += 1  # of a search that goes on
            return
        self._tell_earlier()
        if now.state == "running" and (before is None or before.state != "running"):
            self._start(now)
        elif now.state == "running" and before is not None and now.epochs > before.epochs:
            if time.monotonic() - self._shown_s[now.number] >= LINE_EVERY_S:
                self._late.pop(now.number, None)
                self._epoch(now)
            else:
                self._late[now.number] = now
        elif now.state in ENDED and (before is None or before.state not in ENDED):
            self._late.pop(now.number, None)
            self._print(self._end(now))

    def _tell_earlier(self) -> None:
        if self._earlier:
            self._print(f"{self._earlier} trials were done before")
            self._earlier = 0

    def _start(self, line: Line) -> None:
        words = f"trial {line.number} " + (f"goes on after epoch {self._of(line)}" if line.epochs else "starts")
        if line.attempts > 1 and not line.epochs:
            words += f" (attempt {line.attempts})"
        if self._said.get(line.number) != line.parameters:
            self._said[line.number] = dict(line.parameters)
            words += (
                f": {parameters_text(line.parameters, short_names(self.state.first_values))}" if line.parameters else ""
            )
        self._shown_s[line.number] = time.monotonic()
        self._print(words)

    def _epoch(self, line: Line) -> None:
        self._shown_s[line.number] = time.monotonic()
        parts = [f"trial {line.number} epoch {self._of(line)}", self._metric(line.now)]
        if line.best_epoch not in (None, line.epochs):
            parts.append(f"best {metric_text(self.state.metric, line.value)} (epoch {line.best_epoch})")
        if line.loss is not None and self.state.metric != "loss/total":
            parts.append(f"loss {line.loss:.4g}")
        self._print("  ".join(parts))

    def _end(self, line: Line) -> str:
        words = f"trial {line.number} {line.state}"
        if line.state == "failed":
            words += f" after epoch {self._of(line)}: {line.error or 'no reason is known'}"
            words += f" ({line.attempts} attempts)" if line.attempts > 1 else ""
        else:
            words += " early" if line.state == "stopped" else ""
            words += f" after epoch {self._of(line)}: {self._metric(line.now)}"
            if line.best_epoch not in (None, line.epochs):
                words += f", best {metric_text(self.state.metric, line.value)} (epoch {line.best_epoch})"
        return f"{words}  {duration(line.wall_s)}"

    def _of(self, line: Line) -> str:
        return f"{line.epochs}/{self.state.max_epochs}" if self.state.max_epochs else str(line.epochs)

    def _metric(self, value: float | None) -> str:
        return f"{self.state.metric} {metric_text(self.state.metric, value)}"

    def _print(self, text: str) -> None:
        self.console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)

    # A terminal

    def _table(self) -> Group:
        """What the terminal shows now, no higher and no wider than it is."""
        with self._lock:
            now_s = time.monotonic()
            width, height = self.console.size
            lines = self.state.shown(max(1, height - FRAME))
            summary = [Text(text, no_wrap=True, overflow="ellipsis") for text in self.state.summary(now_s)]
            names = self.state.varying()
        rows = [list(self._cells(line, now_s)) for line in lines]
        fixed = ["trial", "state", "epoch", "now", "best", "time"]
        used = sum(max(map(len, column)) + GAP for column in zip(fixed, *rows, strict=True))
        columns, left_out = fitting(names, [line.parameters for line in lines], width - used)
        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
        for title in fixed:
            table.add_column(title, justify="left" if title == "state" else "right", no_wrap=True)
        for title in columns:
            table.add_column(Text(title), no_wrap=True, overflow="ellipsis")
        for line, cells in zip(lines, rows, strict=True):
            style = COLORS.get(line.state, "")
            best = self.state.best is not None and line.number == self.state.best.number
            values = [Text(cells[0]), Text(cells[1], style=style), *map(Text, cells[2:])]
            values += [Text(value_text(line.parameters.get(name))) for name in columns.values()]
            table.add_row(*values, style="bold" if best else None)
        parts: list[Any] = [*summary, table]
        if left_out:
            parts.append(Text(f"not shown: {', '.join(left_out)}", style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def _cells(self, line: Line, now_s: float) -> Iterator[str]:
        yield str(line.number)
        yield line.state
        yield self._of(line)
        yield metric_text(self.state.metric, line.now)
        yield metric_text(self.state.metric, line.value)
        yield duration(line.wall(now_s))


def fitting(names: list[str], rows: list[dict[str, Any]], width: int) -> tuple[dict[str, str], list[str]]:
    """Columns by short name for the parameters that fit into `width` characters; and the short names of the others."""
    short = short_names(names)
    columns: dict[str, str] = {}
    left_out: list[str] = []
    for name in names:
        needed = GAP + max([len(short[name]), *(len(value_text(row.get(name))) for row in rows)])
        if needed <= width:
            width -= needed
            columns[short[name]] = name
        else:
            left_out.append(short[name])
    return columns, left_out
