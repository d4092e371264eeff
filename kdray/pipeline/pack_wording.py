"""What packing says of the options of `kdray shard`, in the words of an experiment, which has keys instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from kdray.errors import KdrayError

_WORDS = (
    # Its options are those of this experiment, so it is simpler to delete the folder than to give them all again.
    (r"--fresh deletes it and starts over; or pack into", "delete that folder to have it packed anew; or name"),
    (r"Give the same command again", "Run it again"),
    (r"--workers 0 to (pack|work) on one machine", r"cluster.workers: 0 to \1 on one machine"),
    (r"Lower --workers or --shard-bytes", "Lower data.pack.shard_bytes"),
    (r"--max-bad", "data.pack.max_bad_fraction"),
    (r"(?<![\w-])--(short-side|quality|small|shard-bytes|row-group-rows|order|mean-std|kind)\b( (?=[\w-]+$))?", None),
)


@contextmanager
def for_experiments() -> Iterator[None]:
    """Put errors of the block into an experiment's words."""
    try:
        yield
    except KdrayError as error:
        where, problem, fix = _said(error.where), _said(error.problem), _said(error.fix)
        if (where, problem, fix) == (error.where, error.problem, error.fix):
            raise
        raise type(error)(problem or "", where=where, fix=fix) from error


def _said(text: str | None) -> str | None:
    for pattern, words in _WORDS if text else ():
        text = re.sub(pattern, words or _key, text or "")
    return text[:1].upper() + text[1:] if text and text.startswith("delete that folder") else text


def _key(found: re.Match[str]) -> str:
    return f"data.pack.{found[1].replace('-', '_')}" + (": " if found[2] else "")
