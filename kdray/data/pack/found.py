"""What the finder of each kind of source is given, and what it answers with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from kdray.data.pack.collection import Collection
from kdray.data.pack.listing import Entry, entries
from kdray.data.pack.unpack import Scratch
from kdray.errors import DataError, nearest


@dataclass
class Found:
    """A place to look at: one file, a folder, or the files that a pattern matched in a folder.

    Attributes:
        uri: the file or the folder, whatever pattern was given.
        file: whether it is one file.
        files: names that a pattern chose in the folder; None without a pattern.
        split: the one split that is asked for; None for all.
        scratch: where to put what must be unpacked.
        forced: whether the user named the kind.
    """

    uri: str
    file: bool
    files: list[str] | None
    split: str | None
    scratch: Scratch
    forced: bool = False

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """What lies in the folder; nothing for a single file."""
        return {} if self.file else entries(self.uri)

    @property
    def name(self) -> str:
        """The last part of the URI."""
        return self.uri.rstrip("/").rpartition("/")[2]

    def at(self, name: str) -> str:
        """The URI of `name` in the folder."""
        return f"{self.uri.rstrip('/')}/{name}"

    def wants(self, split: str) -> bool:
        return self.split is None or self.split == split

    def check_split(self, there: list[str]) -> None:
        """Raise `DataError` when the split that is asked for is none of `there`."""
        if self.split is not None and self.split not in there:
            hint = nearest(self.split, there)
            problem = f"has no split {self.split!r}{hint}; it has {', '.join(there)}"
            raise DataError(problem, where=self.uri, fix="Name one of them")


@dataclass(frozen=True)
class Kind:
    """A kind of source: `matches` says in a few words what it sees, "" for nothing; it reads names, no contents."""

    name: str
    meaning: str
    matches: Callable[[Found], str]
    collect: Callable[[Found], list[Collection]]
