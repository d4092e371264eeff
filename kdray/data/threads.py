"""Reading, decoding and augmenting in threads of this process: what a run without Ray does, and what prefetches."""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from kdray.data.chunks import Chunk, Memory, Recipe, Reused, build_chunk, new_memory
from kdray.data.decode import decode
from kdray.data.reader import Rows, read_rows

T = TypeVar("T")
R = TypeVar("R")

_POLL_S = 0.1
_END_TIMEOUT_S = 10.0  # for what the thread is just doing: a read, or a task
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
    """A pool of threads that maps over rows, a few rows a task. OpenCV lets go of the GIL while it works."""

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

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def decode_rows(rows: Rows, recipe: Recipe, workers: Workers | None = None, memory: Memory = new_memory) -> Chunk:
    """Decode and augment encoded rows; `memory` gives that of the pixels."""
    mapper = workers.map if workers is not None else map
    return build_chunk(lambda i: decode(rows.images[i]), rows.labels, rows.ids, rows.index, recipe, mapper, memory)


def split_rows_evenly(rows: Rows, most: int) -> Iterator[Rows]:
    """Cut rows into pieces of at most `most`, equal but for one row."""
    pieces = -(-len(rows) // most)
    for piece in range(pieces):
        at = slice(piece * len(rows) // pieces, (piece + 1) * len(rows) // pieces)
        yield Rows(rows.images[at], rows.labels[at], rows.ids[at], rows.index[at])


class ThreadLine:
    """One plan, carried out here: the chunks of the dense rows in `spans` (int64 arrays, each read as one), in order,
    `piece_rows` at a time. The next span is read while one is decoded.
    """

    def __init__(self, piece_rows: int, spans: list[np.ndarray], recipe: Recipe) -> None:
        self._piece_rows, self._spans, self._recipe = piece_rows, spans, recipe

    def chunks(self, follow: Callable[[], object]) -> Iterator[Chunk]:
        """Yield the chunks, each in the memory of the one before. What follows is not begun early: it would take its
        time from the same threads.
        """
        workers, memory = Workers(), Reused()
        reads = prefetch(lambda: (read_rows(self._recipe.manifest, span) for span in self._spans), 1)
        try:
            for rows in reads:
                for piece in split_rows_evenly(rows, self._piece_rows):
                    yield decode_rows(piece, self._recipe, workers, memory)
        finally:
            reads.close()  # type: ignore[attr-defined]
            workers.close()

    def close(self) -> None:
        """Nothing runs outside `chunks`."""
