"""Which text gave which key: sets over the file over its bases, a variant's own keys over those of all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kdray.experiment.paths import Keys
from kdray.experiment.sets import Set
from kdray.experiment.yaml_text import Document

VARIANTS = "variants"


@dataclass(frozen=True)
class Origin:
    """Knows where each key of an experiment, or of a variant (`variants.NAME...`), was written."""

    name: str
    documents: list[Document]  # the file first, then its bases
    sets: list[Set]  # the last applied first

    def place(self, keys: Keys) -> str:
        """Return "file:line" or "--set ..." of the deepest part of `keys` that was written, else the file."""
        for depth in range(len(keys), 0, -1):
            for candidate in _candidates(keys[:depth]):
                found = self.exact(candidate)
                if found:
                    return found
        return self.name

    def exact(self, keys: Keys) -> str | None:
        """Where just these keys were written, None where they were not."""
        over = next((item.source for item in self.sets if item.gives(keys)), None)
        if over:
            return over
        under = next((document.place(keys) for document in self.documents if document.holds(keys)), None)
        if under:
            return under
        return next((item.source for item in self.sets if item.keys[: len(keys)] == keys), None)


def _candidates(keys: Keys) -> Iterator[Keys]:
    """Where the value at `keys` may have been written, the strongest first."""
    in_variant = keys[0] == VARIANTS
    prefix, rest = (keys[:2], keys[2:]) if in_variant else ((), keys)
    yield keys
    if in_variant and rest:
        yield rest
    if rest[:2] == ("teacher", "train") and len(rest) > 2:  # completed from the experiment's train
        if in_variant:
            yield (*prefix, *rest[1:])
        yield rest[1:]
