"""Archives compressed as a whole are written out once, into a temporary folder that lives as long as it is needed."""

from __future__ import annotations

import lzma
import os
import shutil
import tempfile
import threading
from typing import Any

import pyarrow as pa

from kdray.data.pack.fetch import fetch, stream
from kdray.data.pack.listing import size_of
from kdray.data.pack.tarindex import Piece
from kdray.errors import DataError, StoreError
from kdray.store.store import explaining

_MAGIC = {"gzip": b"\x1f\x8b", "bz2": b"BZh", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd"}
ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_STEP = 4 << 20


class Scratch:
    """A temporary folder below `root`, made when something is first put there."""

    def __init__(self, root: str | None = None) -> None:
        self.root = root
        self._folder: str | None = None
        self._files = 0
        self._lock = threading.Lock()

    def file(self, name: str) -> str:
        """The path of a new file that ends in `name`; any number of threads may ask."""
        with self._lock, explaining(self.root or tempfile.gettempdir(), "write"):
            if self._folder is None:
                if self.root is not None:
                    os.makedirs(self.root, exist_ok=True)
                self._folder = tempfile.mkdtemp(prefix="kdray-unpacked-", dir=self.root)
            self._files += 1
            return os.path.join(self._folder, f"{self._files}-{name}")

    def need(self, count: int, what: str) -> None:
        """Raise `StoreError` when fewer than `count` bytes are free there."""
        folder = os.path.dirname(self.file(""))
        free = shutil.disk_usage(folder).free
        if free < count:
            problem = f"{what} needs {_size(count)} unpacked, but {_size(free)} are free"
            raise StoreError(problem, where=folder, fix="Free some space, or set TMPDIR to another folder")

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def plain_tar(uri: str, scratch: Scratch) -> tuple[Piece, bool]:
    """The uncompressed tar of the archive `uri`, and whether it had to be written into `scratch` for that.

    Raises:
        DataError: the archive is damaged or cut off.
        StoreError: the storage fails, or `scratch` has no space.
    """
    size = size_of(uri)
    with explaining(uri, "read"):
        head = fetch(uri, 0, min(6, size))
        tail = fetch(uri, max(0, size - 4), size)
    codec = next((name for name, magic in _MAGIC.items() if head.startswith(magic)), None)
    if codec is None:
        return Piece(uri, 0, size), False
    needed = size
    if codec == "gzip":  # its end says the size modulo 4 GiB
        needed = int.from_bytes(tail, "little")
        needed += -(-max(0, int(0.95 * size) - needed) // (1 << 32)) * (1 << 32)
    scratch.need(max(size, needed), uri)
    target = scratch.file(f"{os.path.basename(uri)}.tar")
    try:
        _write_out(uri, size, codec, target)
    except (lzma.LZMAError, EOFError, pa.ArrowException) as exc:
        raise _damaged(uri, exc) from exc
    return Piece(target, 0, os.path.getsize(target)), True


def _write_out(uri: str, size: int, codec: str, target: str) -> None:
    with stream(uri, size) as raw, _decompressed(raw, codec) as source, open(target, "wb") as out:
        while True:
            try:
                block = source.read(_STEP)
            except OSError as exc:
                if exc.errno is not None:
                    with explaining(uri, "read"):
                        raise
                raise _damaged(uri, exc) from exc  # the decompressor's complaint comes as OSError without a number
            if not block:
                return
            with explaining(target, "write"):
                out.write(block)


def _decompressed(raw: Any, codec: str) -> Any:
    return lzma.open(raw) if codec == "xz" else pa.CompressedInputStream(raw, codec)


def _damaged(uri: str, exc: BaseException) -> DataError:
    reason = " ".join(str(exc).split())[:120]
    return DataError(f"does not unpack: it is cut off or damaged ({reason})", where=uri, fix="Fetch it again, whole")


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 29 else f"{count / (1 << 20):.1f} MiB"
