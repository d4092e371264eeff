"""What is in an uncompressed tar, and where: its headers are read once, and members then by their byte ranges.

A local tar is scanned by a read of a kilobyte at each header. In an object store a request costs as much time as about
a megabyte, so a tar of photographs streams by in large blocks, and only members larger than that are jumped over.
Several tars, or the tars inside a tar, are scanned side by side.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from kdray.data.pack.fetch import fetch, pread
from kdray.data.pack.ranges import LOCAL_THREADS, REMOTE_THREADS
from kdray.errors import DataError
from kdray.store.place import parse
from kdray.store.store import explaining

BLOCK = 512
SMALL_READ, LARGE_READ = 64 << 10, 8 << 20
JUMP = 1 << 20  # mean distance of headers from which on jumping beats streaming
KEPT = (".cls", ".json")  # labels: members so small that they are read with their header
KEPT_BYTES = 64 << 10
_FLUSH = 1 << 16


class Piece(NamedTuple):
    """`size` bytes at `offset` of the file `uri`: a whole file, or a member of an archive."""

    uri: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarIndex:
    """Regular files of a tar in its order: names, offsets and sizes of their content, content of small label files.

    `links` counts members that are links, which are left out.
    """

    tar: Piece
    names: pa.StringArray
    offset: np.ndarray
    size: np.ndarray
    content: pa.BinaryArray
    links: int

    def pieces(self) -> dict[str, Piece]:
        """Members by name; for archives of few members."""
        places = zip(self.names.to_pylist(), self.offset.tolist(), self.size.tolist(), strict=True)
        return {name: Piece(self.tar.uri, offset, size) for name, offset, size in places}


def index_tars(tars: Sequence[Piece]) -> list[TarIndex]:
    """Index tars side by side, in the order given.

    Raises:
        DataError: one is cut off, compressed or no tar at all.
        StoreError: the storage fails.
    """
    remote = bool(tars) and "://" in tars[0].uri
    with ThreadPoolExecutor(REMOTE_THREADS if remote else LOCAL_THREADS) as pool:
        return list(pool.map(index_tar, tars))


def index_tar(tar: Piece) -> TarIndex:
    """Index one tar; see `index_tars`."""
    with explaining(tar.uri, "read"), _source(tar) as source:
        return _Scan(tar, source).run()


class _Scan:
    def __init__(self, tar: Piece, source: _Local | _Remote) -> None:
        self.tar, self.source = tar, source
        self.end = tar.offset + tar.size
        self.names: list[str] = []
        self.offset: list[int] = []
        self.size: list[int] = []
        self.content: list[bytes | None] = []
        self.done: list[tuple[Any, ...]] = []
        self.links = 0

    def run(self) -> TarIndex:
        at = self.tar.offset
        long_name: str | None = None
        long_size: int | None = None
        while at < self.end:
            header = self.source.at(at, BLOCK)
            if len(header) < BLOCK or at + BLOCK > self.end:
                raise self._cut("a header", at)
            if not header[0] and not any(header):
                return self._result()
            kind, size = self._check(header, at)
            start = at + BLOCK
            if kind in b"xgLK":
                if start + size > self.end:
                    raise self._cut("a header", at)
                told = self.source.at(start, size)
                if kind == b"L":
                    long_name = _text(told.rstrip(b"\0"))
                elif kind == b"x":
                    name, given = self._extended(told, at)
                    long_name, long_size = name or long_name, given
            else:
                size = size if long_size is None else long_size
                name = long_name or _name(header)
                long_name, long_size = None, None
                if kind in b"07":
                    self._take(name, start, size)
                elif kind in b"12":
                    self.links += 1
                    size = 0
                elif kind == b"S":
                    raise DataError(f"{name!r} is stored sparsely", where=self._where(), fix="Write it with plain tar")
                else:
                    size = size if kind not in b"3456" else 0
            at = start + (size + BLOCK - 1) // BLOCK * BLOCK
        fix = "Fetch it again, whole; where it is whole, append two empty blocks: head -c 1024 /dev/zero >> FILE"
        raise DataError("has no end mark, so it may be cut off", where=self._where(), fix=fix)

    def _check(self, header: bytes, at: int) -> tuple[bytes, int]:
        try:
            told = int(header[148:156].split(b"\0", 1)[0].strip() or b"0", 8)
            right = sum(header) - sum(header[148:156]) + 256 == told
            size = _number(header[124:136])
        except ValueError:
            right, size = False, 0
        if not right or size < 0:
            if at == self.tar.offset:
                fix = "Check the file; a tar that is compressed needs a name such as .tar.gz"
                raise DataError("is no tar archive", where=self._where(), fix=fix)
            fix = "Fetch or write it again"
            raise DataError(f"is damaged: no header at byte {at - self.tar.offset}", where=self._where(), fix=fix)
        kind = header[156:157]
        return (b"0" if kind == b"\0" else kind), size

    def _take(self, name: str, start: int, size: int) -> None:
        if start + size > self.end:
            raise self._cut(repr(name), start)
        if name.endswith("/"):  # a folder, as tars of the seventies have it
            return
        keep = name.endswith(KEPT) and size <= KEPT_BYTES
        self.content.append(self.source.at(start, size) if keep else None)
        self.names.append(name)
        self.offset.append(start)
        self.size.append(size)
        if len(self.names) == _FLUSH:
            self._flush()

    def _flush(self) -> None:
        content = pa.array(self.content, pa.binary())
        self.done.append((pa.array(self.names, pa.string()), np.array(self.offset), np.array(self.size), content))
        self.names, self.offset, self.size, self.content = [], [], [], []

    def _result(self) -> TarIndex:
        self._flush()
        names, offset, size, content = zip(*self.done, strict=True)
        return TarIndex(
            tar=self.tar,
            names=pa.concat_arrays(names),
            offset=np.concatenate(offset).astype(np.int64),
            size=np.concatenate(size).astype(np.int64),
            content=pa.concat_arrays(content),
            links=self.links,
        )

    def _extended(self, told: bytes, at: int) -> tuple[str | None, int | None]:
        """(path, size) of a pax header: records `LENGTH KEY=VALUE newline`."""
        name, size, rest = None, None, told
        try:
            while rest.strip(b"\0"):
                length = int(rest[: rest.index(b" ")])
                key, _, value = rest[rest.index(b" ") + 1 : length - 1].partition(b"=")
                if key.startswith(b"GNU.sparse"):
                    raise DataError("holds sparse files", where=self._where(), fix="Write it with plain tar")
                name = _text(value) if key == b"path" else name
                size = int(value) if key == b"size" else size
                rest = rest[length:]
                if length < 1:
                    raise ValueError("a record of no length")
        except ValueError as exc:
            problem = f"is damaged: the extended header at byte {at - self.tar.offset} does not read"
            raise DataError(problem, where=self._where(), fix="Fetch or write it again") from exc
        return name, size

    def _where(self) -> str:
        return self.tar.uri if not self.tar.offset else f"{self.tar.uri} (the tar in it at byte {self.tar.offset})"

    def _cut(self, what: str, at: int) -> DataError:
        problem = f"is cut off inside {what}: it ends at byte {self.tar.size}"
        return DataError(problem, where=self._where(), fix="Fetch it again, whole")


def _number(field: bytes) -> int:
    """A number of a header: octal text, or binary where its first bit is set (more than 8 GiB)."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(name: bytes) -> str:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = name.decode("latin-1")
    while text.startswith("./"):
        text = text[2:]
    return text.lstrip("/")


def _source(tar: Piece) -> _Local | _Remote:
    place = parse(tar.uri)
    return _Local(place.path) if place.scheme == "local" else _Remote(place.uri, tar.offset + tar.size)


class _Local:
    """A kilobyte at a time: a header and a small member behind it. Not mapped: a mapped file that shrinks kills."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):  # else the kernel reads ahead what is then jumped over
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        self.start, self.block = 0, b""

    def __enter__(self) -> _Local:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def at(self, offset: int, count: int) -> bytes:
        first = offset - self.start
        if first < 0 or first + count > len(self.block):
            self.start, self.block, first = offset, pread(self.descriptor, offset, max(count, 2 * BLOCK)), 0
        return self.block[first : first + count]


class _Remote:
    def __init__(self, uri: str, end: int) -> None:
        self.uri, self.end = uri, end
        self.start, self.block = 0, b""
        self.first: int | None = None
        self.headers = 0

    def __enter__(self) -> _Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.block = b""

    def at(self, offset: int, count: int) -> bytes:
        self.first = offset if self.first is None else self.first
        self.headers += 1
        first = offset - self.start
        if first < 0 or first + count > len(self.block):
            close = (offset - self.first) / self.headers < JUMP
            large = LARGE_READ if close and self.headers > 8 else SMALL_READ
            end = min(offset + max(count, large), self.end)
            self.start, self.block, first = offset, fetch(self.uri, offset, end), 0
        return self.block[first : first + count]
