"""Arrays that several trials of a sweep need: made once where they can be shared, made in place everywhere else.

A resident feed asks `keep` for what it holds. Without sharing, which is every plain run, that makes it. Inside
`install(sharing)` it is what `sharing` has under the same key: `LocalSharing` remembers within a process that runs one
trial after the other; `kdray.data.ray_shared` lets the processes of a Ray node read one copy. What is shared is never
written to.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np

from kdray.data.manifest import Manifest

LIMIT_BYTES = 2 * 1024**3  # what a process remembers of trials that ended


class Kept(Protocol):
    """Something whose size is that of its arrays."""

    @property
    def nbytes(self) -> int: ...


K = TypeVar("K", bound=Kept)


class Sharing(Protocol):
    """Where trials share arrays. It can be pickled, to be sent to them."""

    def keep(self, key: str, make: Callable[[], K], expected: Callable[[], float]) -> K:
        """What stands under `key`, made by `make`, which can be pickled; `expected` tells about how many bytes come."""
        ...

    def leave(self) -> None:
        """This process needs nothing more for now."""
        ...

    def close(self) -> None:
        """Let go of everything: the sweep is over."""
        ...


_installed: Sharing | None = None


@contextmanager
def install(sharing: Sharing | None) -> Iterator[None]:
    """Let the feeds of this process share through `sharing` while the block runs; None is a plain run."""
    global _installed
    before, _installed = _installed, sharing
    try:
        yield
    finally:
        _installed = before
        if sharing is not None:
            sharing.leave()


def keep(key: str, make: Callable[[], K], expected: Callable[[], float]) -> K:
    """What `make` gives, perhaps as another trial made it: not to be written to. See `Sharing.keep`."""
    return make() if _installed is None else _installed.keep(key, make, expected)


def key_of(kind: str, manifest: Manifest, rows: np.ndarray, settings: Any) -> str:
    """A key for what is made of the dense `rows` int64 [n]; `settings` are plain values that tell how."""
    columns = manifest.columns
    what = [kind, manifest.folder, manifest.fingerprint, columns.image, columns.label, columns.id, settings]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(rows, dtype=np.int64).tobytes())
    return digest.hexdigest()[:32]


class LocalSharing:
    """Sharing between the trials that one process runs one after the other.

    What was used last is remembered, in `limit_bytes`. A pickled one arrives empty.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._known: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[LocalSharing], tuple[int]]:
        return LocalSharing, (self._limit_bytes,)

    def keep(self, key: str, make: Callable[[], K], expected: Callable[[], float]) -> K:
        """See `Sharing`. Room is made before the new one: both would not fit."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        self._make_room(expected())
        made = make()
        self._make_room(made.nbytes)
        with self._lock:
            if made.nbytes <= self._limit_bytes:
                self._known[key] = made
        return made

    @property
    def nbytes(self) -> int:
        """What is remembered."""
        with self._lock:
            return sum(one.nbytes for one in self._known.values())

    def leave(self) -> None:
        """Nothing to do: the next trial of this process may need it."""

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()

    def _make_room(self, nbytes: float) -> None:
        while self._known and self.nbytes + nbytes > self._limit_bytes:
            with self._lock:
                self._known.popitem(last=False)
