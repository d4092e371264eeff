"""The processes that read and decode for the feeds of one training worker: Ray actors, started once, kept warm.

Actors instead of tasks: a decoder imports OpenCV and PyTorch's resize once (seconds), keeps its memory, and holds a
queue, so that it never waits for a scheduler. A reader holds the shuffle windows, in its own memory; the object store
only ever carries the pieces that are on their way.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from kdray.data.chunks import Chunk, Growing, Recipe, Reused
from kdray.data.decode import BadImage, decode
from kdray.data.reader import Rows, read_rows
from kdray.errors import ClusterError, DataError

log = logging.getLogger(__name__)

# Parts of a CPU. Reading waits for storage most of its time, yet asks for something, or Ray would place it on a head
# node that is kept free.
_READ_SHARE, _DECODE_SHARE = 0.02, 0.95
_DECODERS_PER_READER = 8  # a reader hands on the images of twice as many
# A cluster that grows on demand is asked for a node by the wait itself, and a node may take minutes to boot.
FREE_CPU_TIMEOUT_S = 600.0
TOLD_EVERY_S = 60.0
START_TIMEOUT_S = 600.0
_KEPT = 8  # recipes that an actor remembers: of the epochs and splits that are under way
_BLANK = 512  # pixels a side of the image that a decoder is warmed up with

_TAKEN = bytes(bytearray(b"taken"))  # known by identity: stands where an image was

Columns = np.ndarray  # labels, ids and dense row numbers: int64 [3, n]
Piece = tuple[np.ndarray, np.ndarray, Columns]  # encoded images end to end, where each begins and the last ends
Decoded = tuple[np.ndarray, Columns, list[str] | None]


@dataclass(frozen=True)
class Sent:
    """A recipe in the object store. It travels once to each actor, which knows it by `key` from then on."""

    key: str
    box: tuple[Any, ...]  # an ObjectRef that lies in a tuple is not fetched with every call

    @staticmethod
    def of(recipe: Recipe) -> Sent:
        ref = ray.put(recipe)
        return Sent(ref.hex(), (ref,))


class _Recipes:
    def __init__(self) -> None:
        self._known: OrderedDict[str, Recipe] = OrderedDict()

    def get(self, sent: Sent) -> Recipe:
        if sent.key not in self._known:
            self._known[sent.key] = ray.get(sent.box[0])
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(sent.key)
        return self._known[sent.key]


class Reader:
    """Reads whole windows in the background and hands them out in pieces, which it then forgets."""

    def __init__(self) -> None:
        self._recipes = _Recipes()
        self._windows: dict[tuple[str, int], Future[Rows]] = {}
        self._left: dict[tuple[str, int], int] = {}
        self._reading = ThreadPoolExecutor(2, "kdray-read")

    def fetch(self, line: str, number: int, index: np.ndarray, sent: Sent) -> None:
        """Begin to read the dense rows `index` int64 [n], window `number` of `line`."""
        manifest = self._recipes.get(sent).manifest
        self._windows[line, number] = self._reading.submit(read_rows, manifest, index)
        self._left[line, number] = len(index)

    def take(self, line: str, number: int, start: int, index: np.ndarray, sent: Sent) -> Piece:
        """The rows `index`, which stand at `start` of that window. Where it does not hold them (this process is new, or
        Ray lost a piece with a node and asks again) they are read for themselves.
        """
        window = self._windows.get((line, number))
        if window is None or window.result().images[start] is _TAKEN:
            rows = read_rows(self._recipes.get(sent).manifest, index)
            return _piece(rows.images, rows.labels, rows.ids, rows.index)
        rows = window.result()
        at = slice(start, start + len(index))
        images = rows.images[at]
        rows.images[at] = [_TAKEN] * len(images)
        self._left[line, number] -= len(images)
        if not self._left[line, number]:
            del self._windows[line, number], self._left[line, number]
        return _piece(images, rows.labels[at], rows.ids[at], rows.index[at])

    def drop(self, line: str) -> None:
        """Forget the windows of `line`."""
        for key in [key for key in self._windows if key[0] == line]:
            self._windows.pop(key).cancel()
            del self._left[key]

    def held(self) -> int:
        """Rows that wait here to be taken, read or being read."""
        return sum(self._left.values())


def _piece(images: Sequence[bytes], labels: np.ndarray, ids: np.ndarray, index: np.ndarray) -> Piece:
    ends = np.cumsum([0, *map(len, images)], dtype=np.int64)
    return np.frombuffer(b"".join(images), np.uint8), ends, np.stack([labels, ids, index]).astype(np.int64)


class Decoder:
    """Decodes and augments pieces, one at a time."""

    def __init__(self) -> None:
        self._recipes = _Recipes()
        self._memory = Reused()  # Ray copies what `decode` returns before it calls it again
        self._rows = 0

    def warm(self, sent: Sent) -> None:
        """Import what the recipe needs, before there is an image."""
        augment = self._recipes.get(sent).augment
        try:
            augment.apply(np.zeros((_BLANK, _BLANK, 3), np.uint8), augment.draw(0, 0, np.zeros(1, np.int64), 0)[0], 0)
        except (DataError, BadImage):
            return  # a transform that this size does not suit; the images may

    def decode(self, sent: Sent, piece: Piece) -> Decoded:
        """Pixels uint8 [V, n, H, W, 3], the piece's columns, and why rows did not decode (None: all did)."""
        recipe = self._recipes.get(sent)
        encoded, ends, (labels, ids, index) = piece
        view = encoded.data

        def pixels(i: int) -> np.ndarray:
            return decode(bytes(view[ends[i] : ends[i + 1]]))

        chunk = Growing(pixels, labels, ids, index, recipe, self._memory).made()
        self._rows += len(labels)
        return chunk.images, piece[2], chunk.reasons if any(chunk.reasons) else None

    def decoded(self) -> int:
        """Rows that this process has decoded."""
        return self._rows


class Pool:
    """The actors of this process.

    `data_cpus` are the CPUs that they take together (None: those that are free now, whole ones).

    Raises:
        ClusterError: no CPU is or comes free for them.
    """

    def __init__(self, data_cpus: float | None) -> None:
        check_free_cpus(min(1.0, data_cpus or 1.0), FREE_CPU_TIMEOUT_S)
        cpus = data_cpus or float(max(1, int(ray.available_resources().get("CPU", 1.0))))
        count = max(1, math.ceil(cpus - 0.1))
        each = cpus / count if cpus < count else 1.0
        readers = -(-count // _DECODERS_PER_READER)
        # A lost node is no reason to stop; an image that kills every process that decodes it is.
        again = {"max_restarts": -1, "max_task_retries": 3}
        reader = ray.remote(Reader).options(num_cpus=_READ_SHARE * each, **again)
        decoder = ray.remote(Decoder).options(num_cpus=_DECODE_SHARE * each, **again)
        self.readers: list[Any] = [reader.remote() for _ in range(readers)]
        self.decoders: list[Any] = [decoder.remote() for _ in range(count)]
        self._starting = {actor.decoded.remote(): actor for actor in self.decoders}
        self._readers_starting = [actor.held.remote() for actor in self.readers]
        self._ready: list[Any] = []
        self._lock = threading.Lock()

    def warm(self, sent: Sent) -> None:
        """Let the decoders import what a recipe needs; returns at once."""
        for decoder in self.decoders:
            decoder.warm.remote(sent)

    def ready(self) -> list[Any]:
        """The decoders that have started; waits for the first one.

        Raises:
            ClusterError: none started.
        """
        with self._lock:
            if self._starting:
                wait = 0.0 if self._ready else START_TIMEOUT_S
                done, _ = ray.wait(list(self._starting), num_returns=1, timeout=wait)
                self._ready += [self._starting.pop(ref) for ref in done]
            if self._readers_starting and self._ready:
                done, waiting = ray.wait(
                    self._readers_starting, num_returns=len(self._readers_starting), timeout=START_TIMEOUT_S
                )
                self._readers_starting = []
                if waiting:
                    self._ready = []
            if not self._ready:
                raise ClusterError(
                    f"no process for reading or decoding started in {START_TIMEOUT_S:g} s",
                    where="cluster",
                    fix="Look into Ray's logs, or set data.mode: resident",
                )
            return list(self._ready)

    def suspect(self, decoder: Any) -> bool:
        """Give a decoder that does not answer no more pieces until it does; False where there is no other."""
        with self._lock:
            if decoder in self._ready and len(self._ready) > 1:
                self._ready.remove(decoder)
                self._starting[decoder.decoded.remote()] = decoder
            return any(other is not decoder for other in self._ready)


_POOLS: dict[tuple[str, float | None], Pool] = {}
_POOLS_LOCK = threading.Lock()


def shared_pool(data_cpus: float | None) -> Pool:
    """The pool that all feeds of this process with the same CPUs use: those for training and for judging take turns.

    It lasts as long as the process, or its connection to Ray.
    """
    here = ray.get_runtime_context()
    session = f"{here.get_node_id()}/{here.get_job_id()}"  # another one after each ray.init()
    with _POOLS_LOCK:
        for key in [key for key in _POOLS if key[0] != session]:
            del _POOLS[key]
        if (session, data_cpus) not in _POOLS:
            _POOLS[session, data_cpus] = Pool(data_cpus)
        return _POOLS[session, data_cpus]


def close_pools() -> None:
    """End the actors of this process now; feeds that used them are of no more use."""
    with _POOLS_LOCK:
        for pool in _POOLS.values():
            for actor in [*pool.readers, *pool.decoders]:
                ray.kill(actor)
        _POOLS.clear()


def unpacked(decoded: Decoded) -> Chunk:
    """A chunk whose pixels lie where the object store holds them."""
    images, (labels, ids, index), reasons = decoded
    return Chunk(images, labels, ids, index, reasons or [""] * len(labels))


def check_free_cpus(cpus: float, timeout_s: float) -> None:
    """See to it that an actor of `cpus` CPUs can start. Ray would wait for one silently, for ever.

    Others may hold all CPUs for a moment, so where none is free a task is sent to wait for one.

    Raises:
        ClusterError: none came free within `timeout_s`.
    """
    alone = sum(bool(node["Alive"]) for node in ray.nodes()) == 1  # what is free elsewhere may be free in crumbs
    if alone and ray.available_resources().get("CPU", 0.0) >= cpus:
        return
    probe = ray.remote(_nothing).options(num_cpus=cpus, scheduling_strategy="SPREAD").remote()
    began = time.monotonic()
    while (left := timeout_s - (time.monotonic() - began)) > 0:
        done, _ = ray.wait([probe], timeout=min(left, TOLD_EVERY_S))
        if done:
            return
        log.warning("waiting for %g free CPU to read and decode on (at most %.0f s more)", cpus, left)
    ray.cancel(probe)
    total, free = (resources().get("CPU", 0.0) for resources in (ray.cluster_resources, ray.available_resources))
    raise ClusterError(
        f"no CPU is free for reading and decoding: the tasks need {cpus:g}, "
        f"the cluster has {total:g} and {free:g} of them came free in {timeout_s:g} s",
        where="cluster",
        fix="Lower cluster.workers or cluster.cpus_per_worker (fractions such as 0.5 are fine), "
        "or set data.mode: resident",
    )


def _nothing() -> None:
    """What the probe runs."""
