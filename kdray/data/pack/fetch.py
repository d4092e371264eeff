"""Bytes of one file, local or remote, and a remote file as a stream: every request is tried again where that helps."""

from __future__ import annotations

import io
import os
from typing import Any

from kdray.store.place import parse
from kdray.store.store import backend_of, explaining

STREAM_BYTES = 8 << 20
_LOCAL = "local"


def fetch(uri: str, begin: int, end: int) -> bytes:
    """Bytes `begin` to `end` of the file, fewer only where it ends.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: the storage fails.
    """
    if end <= begin:
        return b""
    place = parse(uri)
    if place.scheme != _LOCAL:
        return remote(place.scheme, place.path, begin, end)
    try:
        descriptor = os.open(place.path, os.O_RDONLY)
        try:
            return pread(descriptor, begin, end - begin)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError:
        with explaining(place.uri, "read"):
            raise


def remote(scheme: Any, path: str, begin: int, end: int) -> bytes:
    try:
        return backend_of(scheme).read_range(path, begin, end - begin).data
    except FileNotFoundError:
        raise
    except Exception:
        with explaining(f"{scheme}://{path}", "read"):
            raise


def pread(descriptor: int, offset: int, count: int) -> bytes:
    """`count` bytes at `offset` of an open file, fewer only at its end."""
    data = os.pread(descriptor, count, offset)
    while 0 < len(data) < count:
        more = os.pread(descriptor, count - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def stream(uri: str, size: int) -> Any:
    """The file as a binary file object that seeks; close it."""
    place = parse(uri)
    if place.scheme != _LOCAL:
        return io.BufferedReader(_Remote(place.uri, size), STREAM_BYTES)
    with explaining(place.uri, "read"):
        return open(place.path, "rb")


class _Remote(io.RawIOBase):
    def __init__(self, uri: str, size: int) -> None:
        self.uri, self.size, self.position = uri, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        with explaining(self.uri, "read"):
            data = fetch(self.uri, self.position, min(self.size, self.position + len(buffer)))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)
