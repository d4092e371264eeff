"""Reading, decoding and augmenting in threads of this process: what a run without Ray does, and what prefetches."""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from kdray.data.chunks import Chunk, Growing, Made, Memory, Recipe
from kdray.data.decode import decode
from kdray.data.reader import Rows, read_rows

T = TypeVar("T")
R = TypeVar("R")

_POLL_S = 0.1
_END_TIMEOUT_S = 10.0  # for what the thread is just doing: a read, or a batch
_SLICE_ROWS = 16  # rows per thread task: a task of one small image would be all overhead


def prefetch(make: Callable[[], Iterable[T]], depth: int) -> Iterator[T]:
    """Yield what `make()` gives, computed up to `depth` items ahead in a thread.

    What it raises is raised here, in its place. Closing this iterator ends the thread and closes the inner one.
    """
    ready: queue.Queue[tuple[str, object]] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def put(kind: str, value: object) -> bool:
        while not closed.is_set():
            try:
                ready.put((kind, value), timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            items = iter(make())
            try:
                for item in items:
                    if not put("item", item):
                        return
            finally:
                close = getattr(items, "close", None)
                if close is not None:
                    close()
            put("end", None)
        except BaseException as error:  # raised again in the consumer
            put("error", error)

    thread = threading.Thread(target=work, name="kdray-prefetch", daemon=True)

    def end() -> None:
        closed.set()
        thread.join(_END_TIMEOUT_S)

    thread.start()
    # Python ends daemon threads last of all: one that still waits for Ray tasks would, after Ray's own end, start Ray
    # once more.
    atexit.register(end)
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value  # type: ignore[misc]
            yield value  # type: ignore[misc]
    finally:
        end()
        atexit.unregister(end)


def cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """A pool of threads that works through rows, a few rows a task. OpenCV lets go of the GIL while it works."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or cpus()
        self._pool = ThreadPoolExecutor(self.threads, "kdray-decode") if self.threads > 1 else None

    def map(self, one: Callable[[int], R], rows: Iterable[int]) -> list[R]:
        """[one(i) for i in rows], in order."""
        numbers = list(rows)
        if self._pool is None or len(numbers) <= _SLICE_ROWS:
            return [one(i) for i in numbers]
        slices = [numbers[i : i + _SLICE_ROWS] for i in range(0, len(numbers), _SLICE_ROWS)]
        return [result for part in self._pool.map(lambda part: [one(i) for i in part], slices) for result in part]

    def chunks(self, growing: Iterator[Growing], size: int) -> Iterator[Chunk]:
        """The chunks, of `size` rows each, in order, as owners of their memory; in the end, the generator `growing` is
        closed. Those that follow are begun while one is made, by a thread that may wait for what they need: no thread
        has nothing to do while another makes the last rows of a chunk, and none that is done waits for the next one.
        """
        pool = self._pool
        if pool is None:
            yield from _alone(growing)
            return

        def begin() -> Iterator[_Begun]:
            try:
                for one in growing:
                    yield _Begun(one, pool)
            finally:
                growing.close()  # type: ignore[attr-defined]

        begun = prefetch(begin, max(1, -(-2 * self.threads * _SLICE_ROWS // size) - 1))
        try:
            for one in begun:
                yield one.whole()
                del one  # its memory is the batch's
        finally:
            begun.close()  # type: ignore[attr-defined]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _alone(growing: Iterator[Growing]) -> Iterator[Chunk]:
    try:
        for one in growing:
            yield one.whole(map(one.row, range(len(one))), owned=True)
            del one
    finally:
        growing.close()  # type: ignore[attr-defined]


class _Begun:
    """A chunk that threads are making, some rows a task."""

    def __init__(self, growing: Growing, pool: ThreadPoolExecutor) -> None:
        def make(rows: range) -> list[Made]:
            return [growing.row(i) for i in rows]

        count = len(growing)
        self._growing = growing
        self._slices: list[Future[list[Made]]] = [
            pool.submit(make, range(at, min(at + _SLICE_ROWS, count))) for at in range(0, count, _SLICE_ROWS)
        ]

    def whole(self) -> Chunk:
        try:
            return self._growing.whole((row for part in self._slices for row in part.result()), owned=True)
        except BaseException:
            for part in self._slices:
                part.cancel()
            raise


def decode_rows(rows: Rows, recipe: Recipe, workers: Workers | None = None) -> Chunk:
    """Decode and augment encoded rows."""
    mapper = workers.map if workers is not None else map
    return Growing(partial(_pixels, rows.images), rows.labels, rows.ids, rows.index, recipe).made(mapper)


def _pixels(images: list[bytes], i: int) -> np.ndarray:
    return decode(images[i])


def regroup(parts: Iterable[Rows], size: int) -> Iterator[Rows]:
    """The same rows, `size` at a time; the last may be fewer. Encoded images are not copied."""
    waiting: list[Rows] = []
    count = 0
    for rows in parts:
        at = 0
        while at < len(rows):
            take = min(size - count, len(rows) - at)
            waiting.append(rows.cut(at, at + take))
            at, count = at + take, count + take
            if count == size:
                yield Rows.join(waiting)
                waiting, count = [], 0
    if waiting:
        yield Rows.join(waiting)


def split_rows_evenly(rows: Rows, most: int) -> Iterator[Rows]:
    """Cut rows into pieces of at most `most`, equal but for one row."""
    pieces = -(-len(rows) // most)
    for piece in range(pieces):
        yield rows.cut(piece * len(rows) // pieces, (piece + 1) * len(rows) // pieces)


class ThreadLine:
    """One plan, carried out here: the dense rows in `spans` (int64 arrays, each read as one), in order, as chunks of
    `size` rows that own the pixels' memory, which `memory` gives. The next span is read while one is decoded.
    """

    def __init__(self, size: int, memory: Memory, spans: list[np.ndarray], recipe: Recipe) -> None:
        self._size, self._memory, self._spans, self._recipe = size, memory, spans, recipe

    def chunks(self, follow: Callable[[], object]) -> Iterator[Chunk]:
        """Yield the chunks. What follows is not begun early: it would take its time from the same threads."""
        workers = Workers()
        try:
            yield from workers.chunks(self._growing(), self._size)
        finally:
            workers.close()

    def _growing(self) -> Iterator[Growing]:
        manifest = self._recipe.manifest
        reads = prefetch(lambda: (read_rows(manifest, span) for span in self._spans), 1)
        try:
            for rows in regroup(reads, self._size):
                columns = rows.labels, rows.ids, rows.index
                yield Growing(partial(_pixels, rows.images), *columns, self._recipe, self._memory)
        finally:
            reads.close()  # type: ignore[attr-defined]

    def close(self) -> None:
        """Nothing runs outside `chunks`."""
