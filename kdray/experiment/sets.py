"""`--set path=value`: one key changed from the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kdray.errors import ConfigError
from kdray.experiment.merge import override
from kdray.experiment.paths import Keys, resolve, split_path
from kdray.experiment.yaml_text import parse
from kdray.store.place import without_keys


class Set:
    """One `--set path=value`, and where its value landed."""

    def __init__(self, text: str) -> None:
        shown = without_keys(text)
        self.source = "--set " + (shown if len(shown) <= 200 else shown[:197] + "...")
        path, equals, value = text.partition("=")
        self.path = path.strip()
        if not equals or not self.path:
            raise ConfigError("wants path=value", where=self.source, fix="Write --set train.epochs=5")
        with self.named():
            self.parts = split_path(self.path)
        if self.parts[0] == "base":
            raise ConfigError("base cannot be set", where=self.source, fix="Write base: at the top of the file")
        self.document = parse(value, self.source, has_lines=False, above=tuple(self.parts))
        self.keys: Keys = ()

    def resolve(self, tree: dict[str, Any]) -> Keys:
        """Remember and return the keys that the path means in `tree`."""
        with self.named():
            self.keys = resolve(tree, self.path)
        return self.keys

    def apply(self, tree: dict[str, Any]) -> dict[str, Any]:
        """Return `tree` with the value in its place."""
        keys = self.resolve(tree)
        with self.named():
            return override(tree, keys, self.document.value)

    def gives(self, keys: Keys) -> bool:
        """Whether the value at `keys` comes from here."""
        depth = len(self.keys)
        return keys[:depth] == self.keys and (len(keys) == depth or self.document.holds(keys[depth:]))

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the name of this `--set` on an error that comes from below."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(error.problem, where=self.source, fix=error.fix) from None


def in_order(sets: Sequence[Set]) -> list[Set]:
    """Return `sets` in the order in which they are to be applied.

    A new type drops the keys beside it, so it goes before sets of those keys, in whatever order they came, but not
    before one that gives the whole map or the same type.
    """
    ordered: list[Set] = []
    for item in sets:
        at = len(ordered)
        if item.parts[-1] == "type":
            while at and item.parts[: len(ordered[at - 1].parts)] != ordered[at - 1].parts:
                at -= 1
        ordered.insert(at, item)
    return ordered
