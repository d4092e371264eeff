"""Which kind of source lies at a URI."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kdray.data.pack import cifar, ilsvrc, imagefolder, parquet_folder, stl10, tars, tiny, webdataset
from kdray.data.pack.collection import Collection
from kdray.data.pack.found import Found, Kind
from kdray.data.pack.listing import kind_at, told
from kdray.data.pack.patterns import is_pattern, match
from kdray.data.pack.unpack import Scratch
from kdray.errors import DataError, nearest
from kdray.store.place import parse

# Known by the names of their files; what these are not is looked at for one of the general kinds.
_OFFICIAL: tuple[Kind, ...] = (ilsvrc.KIND, *cifar.KINDS, stl10.KIND, tiny.KIND)
_GENERAL: tuple[Kind, ...] = (parquet_folder.KIND, tars.EITHER, imagefolder.KIND)
_FORCED = (imagefolder.KIND, *_OFFICIAL, webdataset.KIND, tars.KIND, parquet_folder.KIND)
KINDS = tuple(kind.name for kind in _FORCED)


@contextlib.contextmanager
def opened(uri: str, kind: str | None, split: str | None, scratch: str | None) -> Iterator[list[Collection]]:
    """See `open_collections`."""
    known = None if kind is None else _named(kind)
    space = Scratch(scratch)
    try:
        found = _look(uri, split, space, known is not None)
        yield (known or _detect(found)).collect(found)
    finally:
        space.close()


def _named(kind: str) -> Kind:
    for one in _FORCED:
        if one.name == kind:
            return one
    hint = nearest(kind, KINDS)
    raise DataError(f"{kind!r} is no kind of source{hint}", where="--kind", fix=f"Use one of {', '.join(KINDS)}")


def _look(uri: str, split: str | None, space: Scratch, forced: bool) -> Found:
    place = parse(uri)
    there = kind_at(place.uri)
    if there == "nothing":
        if is_pattern(uri):
            folder, names = match(place.uri)
            return Found(folder, False, names, split, space, forced)
        raise DataError("does not exist", where=place.uri, fix="Check the source")
    return Found(place.uri, there == "file", None, split, space, forced)


def _detect(found: Found) -> Kind:
    for kinds in (_OFFICIAL, _GENERAL):
        seen = [(kind, said) for kind in kinds if (said := kind.matches(found))]
        if len(seen) > 1:
            what = " and ".join(f"{said} ({kind.name})" for kind, said in seen)
            fix = f"Name the file or folder that is meant, or one of them with --kind {seen[0][0].name}"
            raise DataError(f"holds {what}", where=found.uri, fix=fix)
        if seen:
            return seen[0][0]
    known = "; ".join(f"{kind.name}: {kind.meaning}" for kind in _FORCED)
    names = (
        found.files
        if found.files is not None
        else [f"{it.name}/" if it.folder else it.name for it in found.entries.values()]
    )
    has = "a single file" if found.file else f"it has {told(list(names), 6)}" if names else "it is empty"
    raise DataError(f"is no kind of source that is known: {has}", where=found.uri, fix=f"Known are {known} (--kind)")
