"""Which kind of source lies at a URI."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kdray.data.pack.collection import Collection
from kdray.errors import DataError


@contextlib.contextmanager
def opened(uri: str, kind: str | None, split: str | None, scratch: str | None) -> Iterator[list[Collection]]:
    """See `open_collections`."""
    raise DataError("no known kind of source", where=uri)
