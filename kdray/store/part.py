"""A piece of a stored file."""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """Bytes of a file, and how many the whole file has (None: fewer than where the piece should have begun).

    `version` is another one when the file was replaced: S3's ETag, Google's generation, the time of a local file's last
    change; None where the storage tells none.
    """

    data: bytes
    size: int | None
    version: str | None = None
