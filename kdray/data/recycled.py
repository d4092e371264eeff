"""Memory that is used again as soon as nobody holds what it was lent for.

Fresh memory costs a page fault, and zeros written by the kernel, for every 4 KiB: a tenth of the time that decoding a
small JPEG takes, for malloc gives blocks of megabytes back to the system.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

_KEPT = 8  # free blocks; more are let go


class Recycled:
    """Lends uint8 arrays. A block comes back when the array, its views and the tensors made of them are all gone."""

    def __init__(self) -> None:
        # Without a lock: the last holder may be let go by the garbage collector, in the middle of anything.
        self._free: deque[np.ndarray] = deque(maxlen=_KEPT)

    def __call__(self, shape: tuple[int, ...]) -> np.ndarray:
        """An uninitialised uint8 array of `shape`."""
        size = int(np.prod(shape))
        block = self._taken()
        while block is not None and block.nbytes != size:  # of batches of another size, which do not come again
            block = self._taken()
        return np.asarray(_Loan(np.empty(size, np.uint8) if block is None else block, self._free)).reshape(shape)

    def _taken(self) -> np.ndarray | None:
        try:
            return self._free.pop()
        except IndexError:
            return None


class _Loan:
    """The base of a lent array and of all its views: NumPy looks for no owner behind what is no array."""

    def __init__(self, block: np.ndarray, free: deque[np.ndarray]) -> None:
        self._block, self._free = block, free
        self.__array_interface__: dict[str, Any] = block.__array_interface__

    def __del__(self) -> None:
        self._free.append(self._block)
