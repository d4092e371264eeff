"""A piece of a stored file."""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """Bytes of a file, and how many the whole file has (None: fewer than where the piece should have begun)."""

    data: bytes
    size: int | None
