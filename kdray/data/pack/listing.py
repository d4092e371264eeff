"""What lies in a folder, local or remote, without looking into files."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from kdray.errors import DataError
from kdray.store import open_uri
from kdray.store.place import parse
from kdray.store.store import explaining

IMAGE_ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))
_HIDDEN = ("__MACOSX", "@eaDir")  # what systems put beside a user's files


@dataclass(frozen=True)
class Entry:
    """A file (`bytes` long) or a folder; `bytes` is 0 for a folder and for a link that leads nowhere or to itself."""

    name: str
    folder: bool
    bytes: int


def entries(uri: str) -> dict[str, Entry]:
    """Files and folders directly in the folder `uri` by name, sorted; links are followed, hidden ones left out.

    Raises:
        StoreError: the folder cannot be listed.
    """
    place = parse(uri)
    found: list[Entry] = []
    with explaining(place.uri, "list"):
        if place.scheme == "local":
            with os.scandir(place.path) as listed:
                found = [Entry(item.name, is_folder(item), size_in(item)) for item in listed]
        else:
            import pyarrow.fs as fs

            files, path = open_uri(place.uri)
            # In Google's storage pyarrow lists a folder only where an object marks it, so there all below is listed.
            for info in files.get_file_info(fs.FileSelector(path, recursive=place.scheme == "gs")):
                name, _, below = info.path[len(path) + 1 :].partition("/")
                folder = bool(below) or not info.is_file
                found.append(Entry(name, folder, 0 if folder else int(info.size or 0)))
    shown = [entry for entry in found if entry.name and not is_hidden(entry.name)]
    return {entry.name: entry for entry in sorted(shown, key=lambda entry: entry.name)}


def kind_at(uri: str) -> str:
    """ "file", "folder" or "nothing" at `uri`."""
    import pyarrow.fs as fs

    files, path = open_uri(uri)
    with explaining(uri, "read"):
        kind = files.get_file_info(path).type
    return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(kind, "nothing")


def size_of(uri: str) -> int:
    """Bytes of the file `uri`; raises `DataError` when there is none."""
    files, path = open_uri(uri)
    with explaining(uri, "read"):
        info = files.get_file_info(path)
    if not info.is_file:
        raise DataError("does not exist", where=uri, fix="Check the path")
    return int(info.size)


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _HIDDEN


def is_image(name: str) -> bool:
    """Whether the ending of `name` is one of an image format, in any case."""
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS


def told(names: list[str], most: int = 8) -> str:
    """`names` for an error message, cut after `most`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def is_folder(item: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link to itself is none."""
    try:
        return item.is_dir()
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
        return False


def size_in(item: os.DirEntry[str]) -> int:
    """Bytes of a file, 0 of a folder and of a link that leads nowhere or to itself: whoever reads it will say so."""
    try:
        return 0 if is_folder(item) else item.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
        return 0
