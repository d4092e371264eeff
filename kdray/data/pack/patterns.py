"""Names of shards by pattern: braces `{000000..001023}` and `{train,val}`, and globs, in the last part of a URI."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterable

from kdray.data.pack.listing import entries, told
from kdray.errors import DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST = 1_000_000


def is_pattern(uri: str) -> bool:
    return any(mark in uri for mark in "*?[{")


def match(uri: str) -> tuple[str, list[str]]:
    """(folder, names of the files in it that the pattern `uri` names), sorted.

    Raises:
        DataError: nothing matches, a name that braces spell out is missing, a pattern above the last part.
    """
    folder, _, last = uri.rpartition("/")
    if is_pattern(folder):
        fix = "Use braces and wildcards in the last part, and one folder at a time"
        raise DataError("has a pattern in the name of a folder", where=uri, fix=fix)
    there = [entry.name for entry in entries(folder or ".").values() if not entry.folder]
    if last in there:  # the name of a file that looks like a pattern
        return folder, [last]
    chosen: list[str] = []
    missing: list[str] = []
    for name in expand(last, uri):
        found = fnmatch.filter(there, name) if any(mark in name for mark in "*?[") else _one(name, there)
        chosen += found
        if not found:
            missing.append(name)
    if not chosen:
        has = f"; the folder has {told(there, 5)}" if there else ""
        raise DataError(f"no file matches{has}", where=uri, fix="Check the pattern")
    if missing:
        fix = "Fetch what is missing, or correct the pattern"
        raise DataError(f"{len(missing)} files are missing: {told(missing, 3)}", where=uri, fix=fix)
    return folder, sorted(set(chosen))


def expand(text: str, uri: str) -> Iterable[str]:
    """The names that the braces of `text` spell out, zeros in front kept."""
    parts = _BRACES.split(text)
    choices = [[part] if number % 2 == 0 else _choices(part) for number, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST or "{" in "".join(parts[::2]) or not count:
        fix = "Write {000000..001023} or {train,val}"
        raise DataError(f"the braces of {text!r} spell out no list of names", where=uri, fix=fix)
    return map("".join, itertools.product(*choices))


def _choices(inner: str) -> list[str]:
    counted = _RANGE.fullmatch(inner)
    if counted is None:
        return inner.split(",")
    first, last = counted.groups()
    width = len(first) if first.startswith("0") else 0
    if int(last) - int(first) >= MOST:
        return []
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]


def _one(name: str, there: list[str]) -> list[str]:
    return [name] if name in there else []
