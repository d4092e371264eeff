"""Carrying out a plan on Ray: windows are read, cut into pieces, decoded in parallel, and come back in plan order.

How far this runs ahead of its consumer is bounded: `ahead` pieces are on their way at any time, whatever happens.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray

from kdray.data.chunks import Chunk, Recipe
from kdray.data.ray_pool import START_TIMEOUT_S, TOLD_EVERY_S, Pool, Sent, unpacked
from kdray.errors import ClusterError, KdrayError

log = logging.getLogger(__name__)

_FIRST_ROWS = 64  # of the first pieces: the loop should not wait for hundreds of images
_GUESSED_BYTES = 3 * 224 * 224  # of a decoded view, until the first one is there
_STORE_SHARE = 0.2  # of the cluster's object store, for the lines of all ranks; training's and validation's at once


class Pace:
    """How many rows a piece has, and how many pieces are on their way. It learns from what comes back.

    A piece has `most_rows` at most. Encoded and decoded, the pieces on their way stay within this rank's part of the
    object store, which is shared by `world` ranks.
    """

    def __init__(self, most_rows: int, decoders: int, encoded_row_bytes: float, views: int, world: int) -> None:
        self.ahead = 2 * decoders + 1
        self._most_rows = most_rows
        self._encoded_row_bytes = encoded_row_bytes
        self._store_bytes = ray.cluster_resources().get("object_store_memory", 0.0) * _STORE_SHARE / world
        self._rows = min(most_rows, _FIRST_ROWS, self._fitting(views * _GUESSED_BYTES))
        self._measured = False

    @property
    def rows(self) -> int:
        """Rows of the next piece."""
        return self._rows

    def measure(self, chunk: Chunk) -> None:
        """Take up the size of a decoded piece."""
        if not self._measured and chunk.images.nbytes:  # where nothing decodes there is no size
            self._measured = True
            fitting = self._fitting(chunk.images.nbytes / max(1, len(chunk)))
            if fitting < self._most_rows:
                said = "%d images at a time instead of %d, so that %d times as many fit in %d %% of Ray's object store"
                log.info(said, fitting, self._most_rows, self.ahead, 100 * _STORE_SHARE)
                self._most_rows = fitting
        self._rows = min(self._most_rows, 2 * self._rows)

    def _fitting(self, row_bytes: float) -> int:
        if not self._store_bytes:
            return self._most_rows
        return max(1, int(self._store_bytes / (self._encoded_row_bytes + row_bytes) / self.ahead))


@dataclass
class _Piece:
    """Rows `index` on their way, which stand at `at` of a span: who decodes them, and what that will give. There are
    several `refs` where it was sent again.
    """

    span: int
    at: int
    index: np.ndarray
    refs: list[Any] = field(default_factory=list)
    decoder: Any = None


class RayLine:
    """One plan, carried out: the chunks of the dense rows in `spans` (int64 arrays, each read as one), in order."""

    def __init__(self, pool: Pool, pace: Pace, spans: list[np.ndarray], recipe: Recipe) -> None:
        self._pool, self._pace = pool, pace
        self._spans = spans
        self._sent = Sent.of(recipe)
        self._name = uuid.uuid4().hex
        self._fetched = 0  # spans that are being read, or were
        self._span, self._at = 0, 0  # where the next piece begins
        self._pending: deque[_Piece] = deque()  # on their way, in order

    @property
    def pending(self) -> int:
        """Pieces on their way."""
        return len(self._pending)

    @property
    def all_sent(self) -> bool:
        """Whether every piece is on its way, or was."""
        return self._span == len(self._spans)

    def fetch(self, count: int) -> None:
        """Have the first `count` spans read."""
        while self._fetched < min(count, len(self._spans)):
            number = self._fetched
            self._reader(number).fetch.remote(self._name, number, self._spans[number], self._sent)
            self._fetched += 1

    def send(self, busy: list[Any]) -> None:
        """Send the next piece to the decoder that has the least to do; `busy` names one for each piece under way."""
        self.fetch(self._span + 2)  # one is taken from, the next is read meanwhile
        span = self._spans[self._span]
        index = span[self._at : self._at + self._pace.rows]
        piece = _Piece(self._span, self._at, index)
        self._decode(piece, busy)
        self._pending.append(piece)
        self._at += len(index)
        if self._at == len(span):
            self._span, self._at = self._span + 1, 0

    def chunks(self, follow: Callable[[], RayLine | None]) -> Iterator[Chunk]:
        """Yield the chunks; `follow` gives the line that is begun when this one has nothing left to send.

        Raises:
            KdrayError: what an actor raised.
        """
        after: RayLine | None = None
        asked = False
        try:
            while self._pending or not self.all_sent:
                while not self.all_sent and self.pending < self._pace.ahead:
                    self.send(self._busy())
                if self._span + 1 >= len(self._spans) and not asked:
                    after, asked = follow(), True
                    if after is not None:
                        after.fetch(1)
                if after is not None and self.all_sent:
                    while not after.all_sent and self.pending + after.pending < self._pace.ahead:
                        after.send(self._busy() + after._busy())
                chunk = unpacked(self._got(self._pending[0]))
                self._pending.popleft()
                self._pace.measure(chunk)
                yield chunk
                del chunk  # the object store may have its memory back
        except ray.exceptions.RayError as error:
            raise own_error(error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Give up what is on its way. The pieces that were sent are decoded all the same, and dropped: a call that is
        taken back from an actor's queue makes the calls after it wait for it for half a minute.
        """
        if not ray.is_initialized():
            return
        self._pending.clear()
        if self._fetched and not self.all_sent:
            for reader in self._pool.readers:
                reader.drop.remote(self._name)
        self._span = len(self._spans)

    def _busy(self) -> list[Any]:
        if not self._pending:
            return []
        refs = [ref for piece in self._pending for ref in piece.refs]
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        finished = set(done)
        return [piece.decoder for piece in self._pending if finished.isdisjoint(piece.refs)]

    def _decode(self, piece: _Piece, busy: list[Any]) -> None:
        encoded = self._reader(piece.span).take.remote(self._name, piece.span, piece.at, piece.index, self._sent)
        piece.decoder = min(self._pool.ready(), key=busy.count)
        piece.refs.append(piece.decoder.decode.remote(self._sent, encoded))

    def _got(self, piece: _Piece) -> Any:
        """The decoded piece. Where its decoder was lost, with no room to start it again, Ray would wait in silence, for
        ever: all that it was to decode goes to others.

        Raises:
            ClusterError: nothing came for `START_TIMEOUT_S`.
        """
        began = time.monotonic()
        while (waited := time.monotonic() - began) < START_TIMEOUT_S:
            done, _ = ray.wait(piece.refs, timeout=TOLD_EVERY_S, fetch_local=False)
            if done:
                return ray.get(done[0])
            lost = piece.decoder
            elsewhere = self._pool.suspect(lost)
            log.warning(
                "no images for %d s: a process that decodes is slow, or waits for a CPU since it was lost%s",
                waited + TOLD_EVERY_S,
                "; others take over" if elsewhere else "",
            )
            if elsewhere:
                for each in [each for each in self._pending if each.decoder is lost]:
                    self._decode(each, self._busy())
        raise ClusterError(
            f"no images came for {START_TIMEOUT_S:g} s",
            where="cluster",
            fix="Look whether the cluster lost a node; the same command goes on from the last checkpoint",
        )

    def _reader(self, span: int) -> Any:
        return self._pool.readers[span % len(self._pool.readers)]


def own_error(error: BaseException) -> BaseException:
    """The KdrayError that an actor raised, out of the errors that Ray wrapped around it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, KdrayError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return error
