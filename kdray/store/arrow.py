"""Google Cloud Storage by pyarrow, default credentials: an object is visible only when its upload has completed."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any

from kdray.store.local import replacing
from kdray.store.part import Part
from kdray.store.retry import retrying


class ArrowObjects:
    """Paths are `bucket/key`; what goes wrong is pyarrow's `OSError`."""

    def write(self, path: str, data: bytes | memoryview) -> None:
        # All bytes are in hand before the object opens, so nothing can fail between opening and closing but the
        # upload itself, which then has no effect.
        with filesystem().open_output_stream(path, compression=None) as stream:
            stream.write(data)

    def write_file(self, path: str, source: str) -> None:
        import mmap

        with open(source, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                self.write(path, b"")
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole, memoryview(whole) as view:
                self.write(path, view)

    def read(self, path: str) -> bytes:
        with filesystem().open_input_file(path) as file:
            return file.readall()

    def read_range(self, path: str, start: int, length: int) -> Part:
        def read() -> Part:
            with filesystem().open_input_file(path) as file:
                size = file.size()
                first = start if start >= 0 else max(0, size + start)
                return Part(file.read_at(max(0, min(length, size - first)), first), size)

        return retrying(read, f"gs://{path}", "read")

    def read_file(self, path: str, target: str) -> None:
        with (
            filesystem().open_input_stream(path, compression=None) as source,
            replacing(os.path.abspath(target)) as file,
        ):
            while block := source.read(8 << 20):
                file.write(block)

    def exists(self, path: str) -> bool:
        import pyarrow.fs as fs

        return filesystem().get_file_info(path).type != fs.FileType.NotFound

    def list(self, path: str) -> list[str]:
        import pyarrow.fs as fs

        # Recursive, for pyarrow lists a folder only where an object marks it, and reads the whole tree either way.
        found = filesystem().get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        return sorted({entry.path.removeprefix(f"{path}/").partition("/")[0] for entry in found} - {""})

    def delete(self, path: str) -> None:
        import pyarrow.fs as fs

        kind = filesystem().get_file_info(path).type
        if kind == fs.FileType.Directory:
            # All under it goes first, then the object that marks the folder, which few folders have.
            with contextlib.suppress(FileNotFoundError):
                filesystem().delete_dir(path)
        elif kind == fs.FileType.File:
            filesystem().delete_file(path)


def filesystem() -> Any:
    """The `pyarrow.fs.GcsFileSystem` of the present environment; STORAGE_EMULATOR_HOST names another server."""
    return _filesystem(os.environ.get("STORAGE_EMULATOR_HOST"))


@functools.lru_cache(maxsize=4)
def _filesystem(emulator: str | None) -> Any:
    import datetime

    import pyarrow.fs as fs

    patience = datetime.timedelta(seconds=15)
    if not emulator:
        return fs.GcsFileSystem(retry_time_limit=patience)
    scheme, _, host = emulator.rpartition("://")
    return fs.GcsFileSystem(
        anonymous=True, scheme=scheme or "http", endpoint_override=host.rstrip("/"), retry_time_limit=patience
    )
