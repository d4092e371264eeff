"""An archive's few files by name, whether it is packed, unpacked or remote: official releases come in all of these."""

from __future__ import annotations

from dataclasses import dataclass

from kdray.data.pack.fetch import fetch
from kdray.data.pack.found import Found
from kdray.data.pack.listing import entries, size_of
from kdray.data.pack.tarindex import Piece, index_tar
from kdray.data.pack.unpack import Scratch, plain_tar
from kdray.errors import DataError
from kdray.store.store import explaining


@dataclass(frozen=True)
class Files:
    """Files by their name without folders; `here` says that they lie in a temporary folder of this machine."""

    uri: str
    pieces: dict[str, Piece]
    here: bool

    def piece(self, name: str) -> Piece:
        """Raises `DataError` when there is no file `name`."""
        if name not in self.pieces:
            fix = "Fetch the official archive again, whole"
            raise DataError(f"lacks {name}", where=self.uri, fix=fix)
        return self.pieces[name]

    def read(self, name: str) -> bytes:
        """The content of `name`."""
        return read_piece(self.piece(name))

    def lines(self, name: str) -> list[str]:
        """The lines of a text file, without spaces around them and without empty ones."""
        try:
            return [line.strip() for line in self.read(name).decode().splitlines() if line.strip()]
        except UnicodeDecodeError as exc:
            raise DataError(f"{name} is no UTF-8 text", where=self.uri, fix="Fetch the archive again, whole") from exc


def in_archive(uri: str, scratch: Scratch) -> Files:
    """The files of a tar, compressed or not."""
    tar, here = plain_tar(uri, scratch)
    return Files(uri, {name.rpartition("/")[2]: piece for name, piece in index_tar(tar).pieces().items()}, here)


def in_folder(uri: str) -> Files:
    """The files directly in a folder."""
    listed = entries(uri).values()
    return Files(uri, {it.name: Piece(f"{uri}/{it.name}", 0, it.bytes) for it in listed if not it.folder}, False)


def whole(uri: str) -> Piece:
    """A file as a piece."""
    return Piece(uri, 0, size_of(uri))


def read_piece(piece: Piece) -> bytes:
    """Raises `DataError` when the file has become shorter."""
    with explaining(piece.uri, "read"):
        data = fetch(piece.uri, piece.offset, piece.offset + piece.size)
    if len(data) != piece.size:
        raise DataError("changes while it is read", where=piece.uri, fix="Wait until its writer has finished")
    return data


@dataclass(frozen=True)
class Release:
    """How an official release lies about: `archives` and `folders` by name, `marks`: files that only its folder has."""

    archives: tuple[str, ...]
    folders: tuple[str, ...]
    marks: tuple[tuple[str, ...], ...]

    def find(self, found: Found) -> str:
        """What of the release is at `found`, by name; "" for nothing. A folder is taken before its archive."""
        if found.files is not None:
            return ""
        if found.file:
            return found.name if found.name in self.archives else ""
        if any(all(mark in found.entries and not found.entries[mark].folder for mark in one) for one in self.marks):
            return found.name
        there = [name for name in self.folders if name in found.entries and found.entries[name].folder]
        return next(iter([*there, *(name for name in self.archives if name in found.entries)]), "")

    def open(self, found: Found) -> Files:
        """Its files; raises `DataError` when nothing of it is there."""
        name = self.find(found)
        if found.file:
            return in_archive(found.uri, found.scratch)
        if not name:
            fix = f"Put {' or '.join(self.archives)} there"
            raise DataError("holds nothing of it", where=found.uri, fix=fix)
        if name not in found.entries:
            return in_folder(found.uri)
        return in_folder(found.at(name)) if found.entries[name].folder else in_archive(found.at(name), found.scratch)
