"""`Store`: named bytes under one root, on any storage, and single files by URI."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from kdray.errors import StoreError
from kdray.store.explain import explain
from kdray.store.part import Part
from kdray.store.place import Place, Scheme, parse

if TYPE_CHECKING:
    import pyarrow.fs


class Backend(Protocol):
    """What one kind of storage does; paths as in `Place.path`, failures are the library's own exceptions."""

    def write(self, path: str, data: bytes | memoryview) -> None: ...
    def write_file(self, path: str, source: str) -> None: ...
    def read(self, path: str) -> bytes: ...
    def read_range(self, path: str, start: int, length: int) -> Part: ...
    def read_file(self, path: str, target: str) -> None: ...
    def exists(self, path: str) -> bool: ...
    def list(self, path: str) -> list[str]: ...
    def delete(self, path: str) -> None: ...


class Store:
    """Named files under a root `uri`; pickles as the URI alone, so a worker opens it with its own credentials.

    `rel` is a path below the root with forward slashes. Methods raise `StoreError`.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self._place = parse(uri)

    @property
    def uri(self) -> str:
        """The root: an absolute path, or `s3://bucket/prefix`."""
        return self._place.uri

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and other._place == self._place

    def __hash__(self) -> int:
        return hash(self._place)

    def sub(self, rel: str) -> Store:
        """The store rooted at `rel`."""
        return Store(self.path_uri(rel))

    def path_uri(self, rel: str) -> str:
        """The URI of `rel`, whether or not something is there."""
        return self._place.under(rel).uri

    def write_bytes(self, rel: str, data: bytes | memoryview) -> None:
        """Write `data` at `rel`, replacing what was there: a reader sees the old or the new, never a part."""
        with self._at(rel, "write") as (backend, path):
            backend.write(path, data)

    def write_text(self, rel: str, text: str) -> None:
        self.write_bytes(rel, text.encode())

    def write_json(self, rel: str, obj: Any) -> None:
        """Write `obj` as indented JSON; keys keep their order, NaN is refused (ValueError: no JSON reader takes it)."""
        self.write_text(rel, json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def put_file(self, rel: str, local_path: str | os.PathLike[str]) -> None:
        """Copy the local file to `rel`, whole or not at all."""
        source = os.fspath(local_path)
        if not os.path.isfile(source):
            raise StoreError("is no file, so it cannot be stored", where=source)
        with self._at(rel, "write") as (backend, path):
            backend.write_file(path, source)

    def read_bytes(self, rel: str) -> bytes:
        with self._at(rel, "read") as (backend, path):
            return backend.read(path)

    def read_text(self, rel: str) -> str:
        return self.read_bytes(rel).decode()

    def read_json(self, rel: str) -> Any:
        try:
            return json.loads(self.read_bytes(rel))
        except ValueError as exc:
            raise StoreError(
                f"is not JSON: {exc}", where=self.path_uri(rel), fix="Remove it to have it made anew"
            ) from exc

    def get_file(self, rel: str, local_path: str | os.PathLike[str]) -> None:
        """Copy `rel` to a local file, whole or not at all."""
        with self._at(rel, "read") as (backend, path):
            backend.read_file(path, os.path.abspath(local_path))

    def exists(self, rel: str = "") -> bool:
        """Whether a file or a non-empty folder is at `rel`."""
        with self._at(rel, "read") as (backend, path):
            return backend.exists(path)

    def list(self, rel: str = "") -> list[str]:
        """Names of files and folders directly under `rel`, sorted; [] when there is none."""
        with self._at(rel, "list") as (backend, path):
            return backend.list(path)

    def delete(self, rel: str) -> None:
        """Remove the file or the whole tree at `rel`; nothing there is fine."""
        with self._at(rel, "delete") as (backend, path):
            backend.delete(path)

    def check_writable(self) -> None:
        """Write, read and remove a probe, so that a run fails before its first step and not at its first checkpoint."""
        rel = f".kdray-probe-{secrets.token_hex(4)}"
        content = secrets.token_bytes(4096)
        try:
            self.write_bytes(rel, content)
            if self.read_bytes(rel) != content:
                raise StoreError("does not give back what was written", where=self.uri, fix="Check the storage")
            self.delete(rel)
        except StoreError as exc:
            # The probe's name means nothing to the reader: name the root.
            where = self.uri if exc.where == self.path_uri(rel) else exc.where
            raise StoreError(exc.problem, where=where, fix=exc.fix) from exc

    @contextlib.contextmanager
    def _at(self, rel: str, doing: str) -> Iterator[tuple[Backend, str]]:
        place = self._place.under(rel)
        with explaining(place.uri, doing):
            yield backend_of(place.scheme), place.path


@contextlib.contextmanager
def explaining(uri: str, doing: str) -> Iterator[None]:
    """Storage failures in the block become a `StoreError` about `doing` at `uri`; other errors pass unchanged."""
    try:
        yield
    except Exception as exc:
        if isinstance(exc, OSError) or type(exc).__module__.split(".")[0] in (
            "botocore",
            "boto3",
            "s3transfer",
            "urllib3",
        ):
            raise explain(exc, uri, doing) from exc
        raise


@functools.cache
def backend_of(scheme: Scheme) -> Backend:
    # Imported on first use: a run on local disk loads neither boto3 nor pyarrow.
    if scheme == "s3":
        from kdray.store.s3 import S3Objects

        return S3Objects()
    if scheme == "gs":
        from kdray.store.arrow import ArrowObjects

        return ArrowObjects()
    from kdray.store.local import LocalFiles

    return LocalFiles()


def open_uri(uri: str | os.PathLike[str]) -> tuple[pyarrow.fs.FileSystem, str]:
    """The pyarrow file system that holds `uri`, and the path in it. For reading: `Store` writes more safely."""
    place = parse(uri)
    if place.scheme == "local":
        import pyarrow.fs as fs

        return fs.LocalFileSystem(use_mmap=True), place.path
    with explaining(place.uri, "read"):
        if place.scheme == "s3":
            from kdray.store.s3_clients import filesystem

            return filesystem(place.path.partition("/")[0]), place.path
        from kdray.store.arrow import filesystem as google

        return google(), place.path


def read_uri(uri: str | os.PathLike[str]) -> bytes:
    """The bytes of one file anywhere; raises `StoreError` when it is absent or cannot be read."""
    return Store(uri).read_bytes("")


def read_range(uri: str | os.PathLike[str], start: int, length: int) -> Part:
    """`length` bytes of one file from `start` on (below 0: from its end), and the file's size; one request to S3.

    Fewer bytes come only where the file ends. `length` must be at least 1, and -`start` where that is counted from the
    end. Raises `StoreError`.
    """
    place = parse(uri)
    with explaining(place.uri, "read"):
        return backend_of(place.scheme).read_range(place.path, start, length)


def exists_uri(uri: str | os.PathLike[str]) -> bool:
    """Whether a file or a non-empty folder is at `uri`."""
    place: Place = parse(uri)
    return Store(place.uri).exists("")
