"""The local file system: a write goes to a temporary file beside its goal, is flushed to the disk, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kdray.store.part import Part

TEMPORARY = ".tmp"


class LocalFiles:
    """Paths are absolute; what goes wrong is the `OSError` that the system gave."""

    def write(self, path: str, data: bytes | memoryview) -> None:
        with replacing(path) as file:
            file.write(data)

    def write_file(self, path: str, source: str) -> None:
        with open(source, "rb") as given, replacing(path) as file:
            shutil.copyfileobj(given, file, 1 << 20)

    def read(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def read_range(self, path: str, start: int, length: int) -> Part:
        with open(path, "rb", buffering=0) as file:
            facts = os.fstat(file.fileno())
            first = start if start >= 0 else max(0, facts.st_size + start)
            return Part(os.pread(file.fileno(), length, first), facts.st_size, version_of(facts))

    def read_file(self, path: str, target: str) -> None:
        self.write_file(target, path)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def list(self, path: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(path) if not is_temporary(name))
        except FileNotFoundError:
            return []

    def delete(self, path: str) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)


def version_of(facts: os.stat_result) -> str:
    """What changes when a file does. Not its inode: file systems over object storage give one file several."""
    return str(facts.st_mtime_ns)


def temporary_name(name: str) -> str:
    """A hidden sibling's name for `name`, which no other process takes and no listing shows."""
    return f".{name[:100]}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}"


def is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY)


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well, and nothing when it does not."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    if os.path.isdir(path):
        raise IsADirectoryError(21, "Is a directory", path)
    temporary = os.path.join(folder, temporary_name(name))
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(folder)


def sync_folder(folder: str) -> None:
    """Make a rename in `folder` survive a power cut; file systems that cannot do so are left as they are."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
