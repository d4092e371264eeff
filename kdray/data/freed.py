"""Memory that is free, but that the C library keeps: glibc gives the system back what lies at the end of its heaps."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def give_back() -> None:
    """Give the system back what tens of thousands of small images left free between other things; nothing elsewhere
    than with glibc (malloc_trim(3)).
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
