"""Parquet footers that this process has read, each asked for once, and the version of the file that it was read from.

A shard that is replaced by another of the same size while a run reads it would give rows of both, or pages cut where
the old footer says: what is read later must be of the version that the footer was of.
"""

from __future__ import annotations

import functools
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from kdray.errors import DataError

Key = tuple[str, int, str]  # a file's URI and size, and what tells its set from others
AGAIN = "Copy or write the shard again"
# A footer of 20 row groups takes 60 to 90 KB when parsed, 16 KB as it lies in the file and 2 KB when deflated; to parse
# it again takes 0.2 ms, to ask for it again a request. So those of 30,000 shards are kept deflated, and a few parsed.
_KEPT_BYTES = 64 << 20
_PARSED = 256


@dataclass(frozen=True, eq=False)
class Known:
    """A footer, and the version of its file (None where the storage tells none)."""

    deflated: bytes
    version: str | None

    @property
    def metadata(self) -> pq.FileMetaData:
        return _parsed(self)


@functools.lru_cache(maxsize=_PARSED)
def _parsed(known: Known) -> pq.FileMetaData:
    return pq.read_metadata(pa.BufferReader(zlib.decompress(known.deflated)))


class FooterCache:
    """The footers used last, up to `kept_bytes` of them, for any number of threads."""

    def __init__(self, kept_bytes: int = _KEPT_BYTES) -> None:
        self._most, self._bytes = kept_bytes, 0
        self._found: OrderedDict[Key, Future[Known]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, read: Callable[[], tuple[bytes, str | None]]) -> Known:
        """The footer of `key`; `read` gives its bytes and their version, once however many threads want it."""
        with self._lock:
            found = self._found.get(key)
            mine = found is None
            if found is None:
                found = self._found[key] = Future()
            self._found.move_to_end(key)
        if mine:
            try:
                tail, version = read()
                known = Known(zlib.compress(tail, 1), version)
                _ = known.metadata  # a footer that does not parse is not kept
            except BaseException as exc:  # raised below, also in threads that wait for it
                with self._lock:
                    self._drop(key, found)
                found.set_exception(exc)
            else:
                found.set_result(known)
                self._keep(key, found)
        return found.result()

    def check(self, key: Key, known: Known, version: str | None) -> None:
        """Raise `DataError` when what was just read is of another version than its footer.

        The footer is forgotten: a run that is started again in this process reads what is there then.
        """
        if None in (known.version, version) or known.version == version:
            return
        with self._lock:
            found = self._found.get(key)
            if found is not None and found.done() and found.result() is known:
                self._drop(key, found)
                self._bytes -= len(known.deflated)
        fix = "Leave a set alone while it is read, then start again"
        raise DataError("was replaced since this run began to read it", where=key[0], fix=fix)

    def clear(self) -> None:
        with self._lock:
            self._found.clear()
            self._bytes = 0

    def _keep(self, key: Key, found: Future[Known]) -> None:
        with self._lock:
            if self._found.get(key) is not found:  # cleared meanwhile
                return
            self._bytes += len(found.result().deflated)
            while self._bytes > self._most:
                key, oldest = next(iter(self._found.items()))
                if oldest is found or not oldest.done():  # one that is being read is not counted yet
                    break
                self._bytes -= len(oldest.result().deflated)
                del self._found[key]

    def _drop(self, key: Key, found: Future[Known]) -> None:
        if self._found.get(key) is found:
            del self._found[key]


FOOTERS = FooterCache()
