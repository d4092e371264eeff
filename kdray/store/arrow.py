"""Google Cloud Storage by pyarrow, default credentials: an object is visible only when its upload has completed."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

from kdray.store.local import replacing
from kdray.store.part import Part
from kdray.store.retry import retrying

Method = TypeVar("Method", bound=Callable[..., Any])


def _tried_again(doing: str) -> Callable[[Method], Method]:
    """Retry a method whose first argument is the path: each may be done twice without harm."""

    def wrap(method: Method) -> Method:
        @functools.wraps(method)
        def call(self: ArrowObjects, path: str, *more: Any) -> Any:
            return retrying(lambda: method(self, path, *more), f"gs://{path}", doing)

        return cast(Method, call)

    return wrap


class ArrowObjects:
    """Paths are `bucket/key`; what goes wrong is pyarrow's `OSError`."""

    @_tried_again("write")
    def write(self, path: str, data: bytes | memoryview) -> None:
        # All bytes are in hand before the object opens, so nothing can fail between opening and closing but the
        # upload itself, which then has no effect.
        with filesystem().open_output_stream(path, compression=None) as stream:
            stream.write(data)

    @_tried_again("write")
    def write_file(self, path: str, source: str) -> None:
        import mmap

        with open(source, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                self.write(path, b"")
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole, memoryview(whole) as view:
                self.write(path, view)

    @_tried_again("read")
    def read(self, path: str) -> bytes:
        with filesystem().open_input_file(path) as file:
            return file.readall()

    def read_range(self, path: str, start: int, length: int) -> Part:
        def read() -> Part:
            with filesystem().open_input_file(path) as file:
                size = file.size()
                first = start if start >= 0 else max(0, size + start)
                data = file.read_at(max(0, min(length, size - first)), first)
                generation = file.metadata().get("generation")  # known since it was opened
                return Part(data, size, generation.decode() if generation else None)

        return retrying(read, f"gs://{path}", "read")

    @_tried_again("read")
    def read_file(self, path: str, target: str) -> None:
        with (
            filesystem().open_input_stream(path, compression=None) as source,
            replacing(os.path.abspath(target)) as file,
        ):
            while block := source.read(8 << 20):
                file.write(block)

    @_tried_again("read")
    def exists(self, path: str) -> bool:
        import pyarrow.fs as fs

        return filesystem().get_file_info(path).type != fs.FileType.NotFound

    @_tried_again("list")
    def list(self, path: str) -> list[str]:
        import pyarrow.fs as fs

        # Recursive, for pyarrow lists a folder only where an object marks it, and reads the whole tree either way.
        found = filesystem().get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        return sorted({entry.path.removeprefix(f"{path}/").partition("/")[0] for entry in found} - {""})

    @_tried_again("delete")
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
