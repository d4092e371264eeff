"""How a packing or a check is shown: a bar on a terminal, plain lines in logs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kdray.report.progress import LINE_EVERY_S


@contextmanager
def showing(console: Console) -> Iterator[View]:
    """A `View` on `console`, closed at the end of the block."""
    view = View(console)
    try:
        yield view
    finally:
        view.close()


class View:
    """Shows images per second, bytes, shards and bad images of one split after another; an `execute.Progress`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._line_at = 0.0

    def begin(self, title: str, shards: int, images: int, source_bytes: int) -> None:
        self.close()
        self.shards, self.images, self.bytes = shards, images, source_bytes
        self.done_shards = self.done_images = self.done_bytes = self.bad = 0
        self._resumed_shards = self._resumed_images = self._resumed_bytes = 0
        self._started = self._line_at = time.monotonic()
        counted = f"{images} images, " if images else ""
        self._say(f"{title}: {counted}{size_text(source_bytes)}, {shards} shards")
        if self.console.is_terminal:
            self._bar = Progress(
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task("bytes", total=source_bytes, text="")
            self._bar.start()

    def part(self, images: int, source_bytes: int, bad: int, resumed: bool) -> None:
        self.done_shards += 1
        self.done_images += images
        self.done_bytes += source_bytes
        self.bad += bad
        if resumed:
            self._resumed_shards += 1
            self._resumed_images += images
            self._resumed_bytes += source_bytes
        now = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done_bytes, text=self._text(now))
        elif not resumed and now - self._line_at >= LINE_EVERY_S:
            self._line_at = now
            self._say(f"  {self.done_images} images  {self._text(now)}  {self._left(now)}")

    def end(self, packed_already: bool = False) -> None:
        self.close()
        if packed_already:
            self._say("  packed already")
            return
        now = time.monotonic()
        resumed = f"  {self._resumed_shards} shards were there" if self._resumed_shards else ""
        self._say(f"  done in {now - self._started:.0f} s  {self._text(now)}{resumed}")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def _text(self, now: float) -> str:
        rate = (self.done_images - self._resumed_images) / max(now - self._started, 1e-3)
        bad = f"  {self.bad} bad" if self.bad else ""
        shards = f"{self.done_shards}/{self.shards} shards"
        return f"{rate:.0f} images/s  {size_text(self.done_bytes)}  {shards}{bad}"

    def _left(self, now: float) -> str:
        if self.done_bytes - self._resumed_bytes < 0.01 * self.bytes:
            return ""  # the start of a cluster would be counted as if it went on so
        speed = (self.done_bytes - self._resumed_bytes) / max(now - self._started, 1e-3)
        seconds = int((self.bytes - self.done_bytes) / max(speed, 1.0))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def size_text(size: float) -> str:
    """Bytes as a person reads them: "1.4 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
