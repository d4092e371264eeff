"""Which text gave which key: sets over the file over its bases, a variant's own keys over those of all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kdray.experiment.paths import Keys
from kdray.experiment.sets import Set
from kdray.experiment.yaml_text import Document

VARIANTS = "variants"
MATRIX = "matrix"
CELLS = "cells"

# By cell, for each axis: the keys under which its value stands in the file, and the path in an experiment that a value
# of a list is the value of (() for a part of an experiment).
Cells = dict[str, list[tuple[Keys, Keys]]]


@dataclass(frozen=True)
class Origin:
    """Knows where each key of an experiment, of a variant (`variants.NAME...`) or of a cell of a matrix was written."""

    name: str
    documents: list[Document]  # the file first, then its bases
    sets: list[Set]  # the last applied first
    cells: Cells = field(default_factory=dict)

    def told(self, keys: Keys) -> Keys:
        """`keys` of a cell (`matrix.cells.NAME...`) as the file has them: under the axis that gave the value.

        What no axis gave stays the cell's; all other keys stay what they are.
        """
        if keys[:2] != (MATRIX, CELLS) or len(keys) < 3:
            return keys
        if keys[2] not in self.cells:  # a matrix that was written down after its expansion
            return (VARIANTS, *keys[2:])
        rest = keys[3:]
        for depth in range(len(rest), 0, -1):
            for head in _candidates(rest[:depth]):
                for written, path in reversed(self.cells[str(keys[2])]):
                    if path and path == head:
                        return written
                    if not path and self.exact((*written, *head)):
                        return (*written, *head, *rest[depth:])
                if self.exact(head):
                    return keys
        return keys

    def place(self, keys: Keys) -> str:
        """Return "file:line" or "--set ..." of the deepest part of `keys` that was written, else the file."""
        keys = self.told(keys)
        if keys[:2] == (MATRIX, CELLS):
            keys = keys[3:] or keys
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
