"""A source and the folder that it is packed into must lie apart."""

from __future__ import annotations

import os

from kdray.data.pack.collection import Collection
from kdray.errors import DataError
from kdray.store.place import parse


def check_apart(collection: Collection, dest_uri: str) -> None:
    """Refuse to pack into the source, where the next listing would find the shards, and into a folder with files of
    the source, which `--fresh` might delete. Links do not hide one from the other.

    Raises:
        DataError: the source, or a file of it, is the destination or lies in it, or the other way round.
    """
    dest = _real(dest_uri)
    if _within(dest, _real(collection.uri)):
        fix = "Pack into a folder outside of it, or the shards would become part of the source"
        raise DataError("lies inside the source", where=parse(dest_uri).uri, fix=fix)
    # A folder of images may lie beside shards, but what is listed file by file may be the shards themselves.
    files = list(getattr(collection, "files", ()))
    if parse(collection.uri).scheme != "local" or os.path.isfile(parse(collection.uri).path):
        files.append(collection.uri)
    for file in files:
        if _within(_real(file), dest) or _within(_named(file), dest):
            fix = "Pack into another folder, or move the source out of this one"
            raise DataError(f"holds a file of the source, {file}", where=parse(dest_uri).uri, fix=fix)


def _real(uri: str) -> str:
    place = parse(uri)
    return os.path.realpath(place.path) if place.scheme == "local" else place.uri


def _named(uri: str) -> str:
    """Where the name of a file stands, which may be a link to elsewhere."""
    folder, _, name = parse(uri).uri.rpartition("/")
    return f"{_real(folder or '/').rstrip('/')}/{name}" if parse(uri).scheme == "local" else uri


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")
