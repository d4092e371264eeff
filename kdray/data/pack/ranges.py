"""Many small reads from few large files, and of many small files: in parallel, read ahead, given in the asked order.

Rows are taken in windows of some tens of megabytes. Inside a window neighbours in a file become one read, and while a
window is handed out the next one is under way, so the latency of an object store is paid once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from kdray.data.pack.collection import BadItem
from kdray.data.pack.fetch import fetch
from kdray.data.pack.unreadable import bad_item
from kdray.errors import StoreError
from kdray.store.place import parse
from kdray.store.store import backend_of, explaining

MIB = 1 << 20
WINDOW_BYTES, WINDOW_ROWS = 24 * MIB, 4096
SPAN_BYTES = 8 * MIB  # longer reads go no faster, and several run at once
# Reading that much for nothing costs less than another read; a larger gap is read over only where as much is used.
REMOTE_GAP, LOCAL_GAP, SMALL_GAP = 256 << 10, 16 << 10, 16 << 10
LARGEST = 256 * MIB
LOCAL_STEP = 32  # local reads that a thread does at once: one of them takes less time than waking the thread
REMOTE_THREADS, LOCAL_THREADS = 16, 4

Got = bytes | BadItem


def read_ranges(files: Sequence[str], file: np.ndarray, offset: np.ndarray, size: np.ndarray) -> Iterator[Got]:
    """Bytes `offset[i]` to `offset[i] + size[i]` of `files[file[i]]`, in the order of the rows i.

    A file that is missing, too short or alone cannot be read makes its rows `BadItem`.

    Raises:
        StoreError: the storage fails.
    """
    if not len(file):
        return
    opener = _Opener(files)

    def submit(pool: ThreadPoolExecutor, first: int, last: int) -> Callable[[], Iterator[Got]]:
        order, spans = _spans(file[first:last], offset[first:last], size[first:last], opener.gap)
        wanted = [(int(file[first + order[a]]), begin, end) for a, _, begin, end in spans]
        reads = [
            pool.submit(opener.read_all, wanted[at : at + opener.step]) for at in range(0, len(spans), opener.step)
        ]
        return lambda: _in_rows(order, spans, reads, opener.step, offset[first:last], size[first:last])

    yield from _ahead(opener.threads, _windows(size), submit)


def read_files(uris: Sequence[str], size: np.ndarray) -> Iterator[Got]:
    """The whole files `uris`, in order; one that is missing, has another size than `size[i]`, or alone cannot be read
    is a `BadItem`.
    """
    if not len(uris):
        return
    threads = REMOTE_THREADS if "://" in uris[0] else LOCAL_THREADS

    def some(first: int, last: int) -> list[Got]:
        return [_whole(uris[row], int(size[row])) for row in range(first, last)]

    def submit(pool: ThreadPoolExecutor, first: int, last: int) -> Callable[[], Iterator[Got]]:
        step = 1 if "://" in uris[0] else LOCAL_STEP
        reads = [pool.submit(some, at, min(at + step, last)) for at in range(first, last, step)]
        return lambda: (got for read in reads for got in read.result())

    yield from _ahead(threads, _windows(size), submit)


def _ahead(
    threads: int,
    windows: Iterator[tuple[int, int]],
    submit: Callable[[ThreadPoolExecutor, int, int], Callable[[], Iterator[Got]]],
) -> Iterator[Got]:
    """Rows of window after window, the next one being read meanwhile."""
    pool = ThreadPoolExecutor(threads)
    under_way: deque[Callable[[], Iterator[Got]]] = deque()
    try:
        for first, last in windows:
            under_way.append(submit(pool, first, last))
            if len(under_way) == 2:
                yield from under_way.popleft()()
        while under_way:
            yield from under_way.popleft()()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # a caller that stops early waits for no read it does not need


def _windows(size: np.ndarray) -> Iterator[tuple[int, int]]:
    ends = np.cumsum(size, dtype=np.int64)
    first = 0
    while first < len(size):
        before = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, before + WINDOW_BYTES, side="right"))
        last = min(max(last, first + 1), first + WINDOW_ROWS)
        yield first, last
        first = last


Span = tuple[int, int, int, int]  # rows order[a:b], bytes begin to end


def _spans(file: np.ndarray, offset: np.ndarray, size: np.ndarray, gap: int) -> tuple[np.ndarray, list[Span]]:
    order = np.lexsort((offset, file))
    spans: list[Span] = []
    start, begin, end, used = 0, 0, 0, 0
    for at, row in enumerate(order.tolist()):
        low, high = int(offset[row]), int(offset[row] + size[row])
        over = min(gap, max(SMALL_GAP, used))
        near = at > start and file[row] == file[order[at - 1]] and low <= end + over and high - begin <= SPAN_BYTES
        if at and not near:
            spans.append((start, at, begin, end))
            start = at
        if at == start:
            begin, end, used = low, high, 0
        end, used = max(end, high), used + high - low
    return order, [*spans, (start, len(order), begin, end)]


def _in_rows(
    order: np.ndarray,
    spans: list[Span],
    reads: list[Future[list[Got]]],
    step: int,
    offset: np.ndarray,
    size: np.ndarray,
) -> Iterator[Got]:
    """Rows in their order from `reads` of `step` spans each; a span's bytes are freed with its last row."""
    span_of = np.empty(len(order), np.int64)
    left = []
    for number, (a, b, _, _) in enumerate(spans):
        span_of[order[a:b]] = number
        left.append(b - a)
    whole: dict[int, Got] = {}
    pending: list[Future[list[Got]] | None] = list(reads)
    reads.clear()
    for row, number in enumerate(span_of.tolist()):
        read = pending[number // step]
        if read is not None:
            whole.update(enumerate(read.result(), number // step * step))
            pending[number // step] = None
        data = whole[number]
        left[number] -= 1
        if not left[number]:
            del whole[number]
        if isinstance(data, BadItem):
            yield data
            continue
        begin = int(offset[row]) - spans[number][2]
        data = data[begin : begin + int(size[row])]
        yield data if len(data) == size[row] else BadItem("its file has become shorter since it was listed")


class _Opener:
    """Reads ranges of `files`, any number at once."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = files
        remote = "://" in files[0]
        self.gap = REMOTE_GAP if remote else LOCAL_GAP
        self.threads = REMOTE_THREADS if remote else LOCAL_THREADS
        self.step = 1 if remote else LOCAL_STEP

    def read_all(self, wanted: list[tuple[int, int, int]]) -> list[Got]:
        return [_one(self.files[number], begin, end) for number, begin, end in wanted]


def _one(uri: str, begin: int, end: int) -> Got:
    if end - begin > LARGEST:
        return BadItem(f"{end - begin} bytes, more than {LARGEST}: no image")
    try:
        return fetch(uri, begin, end)
    except FileNotFoundError:
        return BadItem(f"{uri} is missing")
    except StoreError as error:
        return bad_item(error, uri)


def _whole(uri: str, size: int) -> Got:
    if size > LARGEST:
        return BadItem(f"{size} bytes, more than {LARGEST}: no image")
    place = parse(uri)
    try:
        with explaining(place.uri, "read"):
            data = backend_of(place.scheme).read(place.path)
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return BadItem("is missing")
        return bad_item(error)
    if len(data) != size:
        return BadItem(f"has {len(data)} bytes instead of {size}: changed since it was listed")
    return data
