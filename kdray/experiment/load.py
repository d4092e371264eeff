"""From files, `--set` and plain dicts to an `Experiment`, and back to YAML."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from kdray.errors import ConfigError, nearest
from kdray.experiment.explain import Place, explain, show
from kdray.experiment.merge import merge, override, teacher_train
from kdray.experiment.paths import Keys, resolve, split_path
from kdray.experiment.schema import Experiment
from kdray.experiment.yaml_text import Document, dump, parse


def load_experiment(path: str | FilePath, sets: Sequence[str] = ()) -> Experiment:
    """Return the experiment in the YAML file at `path`, with its `base:` files under it and `sets` over it.

    Each of `sets` is "dotted.path=value", the value written as in YAML; later ones win. An experiment without a
    name is called as its file. Raises ConfigError: one message with file, line, key path, value and the way out.
    """
    tree, origin = _read(path, sets)
    return _validate(tree, origin.place)


def read_tree(path: str | FilePath, sets: Sequence[str] = ()) -> dict[str, Any]:
    """Return the plain nested values that `load_experiment` checks: bases and `sets` merged in, nothing validated.

    What `get_path` and `set_path` work on, and `experiment_from_dict` turns into an experiment. Raises ConfigError.
    """
    return _read(path, sets)[0]


def place_of(path: str | FilePath, sets: Sequence[str], key: str) -> str:
    """Return where the dotted `key` was written: "file:line" or "--set ...", and the file alone for a default.

    For errors that are found after the file was read. Raises ConfigError as `load_experiment` does.
    """
    tree, origin = _read(path, sets)
    try:
        return origin.place(resolve(tree, key))
    except ConfigError:  # a path into something that is no map: the nearest that is one was written somewhere
        return origin.place(resolve(tree, key.partition(".")[0]))


def experiment_from_dict(values: Mapping[str, Any], where: str = "experiment", sets: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a nested dict with the keys of a file, except `base`; `where` names it in errors.

    Raises ConfigError as `load_experiment` does, with `where` in the place of file and line.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"an experiment is a dict, not {show(values)}", where=where, fix="Give {'data': ..., ...}")
    tree, layers = _apply_sets(dict(values), [_Set(text) for text in sets])
    return _validate(tree, _Origin(where, [], layers).place)


def to_yaml(experiment: Experiment) -> str:
    """Return the whole experiment, defaults included, as YAML that loads to an equal experiment."""
    return dump(experiment.model_dump(mode="json"))


def _validate(tree: dict[str, Any], place: Place) -> Experiment:
    try:
        return Experiment.model_validate(teacher_train(tree))
    except ValidationError as error:
        raise explain(error, place) from None


class _Set:
    """One `--set path=value`, and where its value landed."""

    def __init__(self, text: str) -> None:
        self.source = "--set " + (text if len(text) <= 200 else text[:197] + "...")
        path, equals, value = text.partition("=")
        self.path = path.strip()
        if not equals or not self.path:
            raise ConfigError("wants path=value", where=self.source, fix="Write --set train.epochs=5")
        with _named(self.source):
            self.parts = split_path(self.path)
        if self.parts[0] == "base":
            raise ConfigError("base cannot be set", where=self.source, fix="Write base: at the top of the file")
        self.document = parse(value, self.source, has_lines=False, above=tuple(self.parts))
        self.keys: Keys = ()

    def apply(self, tree: dict[str, Any]) -> dict[str, Any]:
        with _named(self.source):
            self.keys = resolve(tree, self.path)
            return override(tree, self.keys, self.document.value)

    def gives(self, keys: Keys) -> bool:
        depth = len(self.keys)
        return keys[:depth] == self.keys and (len(keys) == depth or self.document.holds(keys[depth:]))


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Put the name of a `--set` on an error that comes from below."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(error.problem, where=source, fix=error.fix) from None


def _apply_sets(tree: dict[str, Any], sets: Sequence[_Set]) -> tuple[dict[str, Any], list[_Set]]:
    """Return the tree with all sets applied, and the sets, the last applied first."""
    ordered: list[_Set] = []
    for item in sets:
        at = len(ordered)
        if item.parts[-1] == "type":
            # A new type drops the keys beside it, so it goes before sets of those keys, in whatever order they came,
            # but not before one that gives the whole map or the same type.
            while at and item.parts[: len(ordered[at - 1].parts)] != ordered[at - 1].parts:
                at -= 1
        ordered.insert(at, item)
    for item in ordered:
        tree = item.apply(tree)
    return tree, ordered[::-1]


@dataclass(frozen=True)
class _Origin:
    """Knows which text gave which key: the sets over the file over its bases."""

    name: str
    documents: list[Document]  # the file first, then its bases
    sets: list[_Set]  # the last applied first

    def place(self, keys: Keys) -> str:
        for depth in range(len(keys), 0, -1):
            found = self._exact(keys[:depth])
            if found:
                return found
            if keys[:2] == ("teacher", "train") and depth > 2:  # it may have come from the experiment's train
                found = self._exact(keys[1:depth])
                if found:
                    return found
        return self.name

    def _exact(self, keys: Keys) -> str | None:
        over = next((item.source for item in self.sets if item.gives(keys)), None)
        if over:
            return over
        under = next((document.place(keys) for document in self.documents if document.holds(keys)), None)
        if under:
            return under
        return next((item.source for item in self.sets if item.keys[: len(keys)] == keys), None)


def _read(path: str | FilePath, sets: Sequence[str]) -> tuple[dict[str, Any], _Origin]:
    changes = [_Set(text) for text in sets]
    documents = _read_with_bases(FilePath(path))
    tree: dict[str, Any] = {}
    for document in reversed(documents):
        tree = merge(tree, {key: value for key, value in document.value.items() if key != "base"})
    tree, layers = _apply_sets(tree, changes)
    if tree.get("name") is None:
        tree = {**tree, "name": FilePath(path).stem}
    return tree, _Origin(str(path), documents, layers)


def _read_with_bases(path: FilePath) -> list[Document]:
    """Return the file's document, then its base's, and so on down."""
    documents: list[Document] = []
    seen: list[FilePath] = []
    asked = None  # where the file was named, when a base
    while True:
        document = _read_file(path, asked)
        documents.append(document)
        seen.append(path.resolve())
        base = document.value.get("base")
        if base is None:
            return documents
        asked = f"{document.place(('base',))}: base"
        if not isinstance(base, str) or not base:
            raise ConfigError(
                f"wants the path of one file, but {show(base)} stands there",
                where=asked,
                fix="Write base: base/NAME.yaml",
            )
        path = FilePath(os.path.normpath(path.parent / base))
        if path.resolve() in seen:
            names = [document.source for document in documents] + [str(path)]
            raise ConfigError(f"bases go in a circle: {' -> '.join(names)}", where=asked, fix="Remove one of them")


def _read_file(path: FilePath, asked: str | None) -> Document:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise _no_file(path, asked) from None
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8 text", where=str(path), fix="Give a YAML file, saved as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path), fix="Check the permissions") from None
    document = parse(text, str(path))
    if document.root is None:
        raise ConfigError("the file is empty", where=str(path), fix="Write data:, student:, objectives:, train:")
    if not isinstance(document.value, dict):
        problem = f"an experiment is a map of keys, but {show(document.value)} stands there"
        raise ConfigError(problem, where=document.place(()), fix="Write key: value lines")
    return document


def _no_file(path: FilePath, asked: str | None) -> ConfigError:
    where = asked or str(path)
    folder = path if path.is_dir() else path.parent
    named = f" {path}" if asked else ""
    if not folder.is_dir():
        return ConfigError(f"no file{named}: there is no folder {folder}", where=where, fix="Correct the path")
    beside = sorted(item.name for item in folder.iterdir() if item.suffix in (".yaml", ".yml"))
    problem = f"{named.strip() or 'this'} is a folder" if path.is_dir() else f"no such file{named}"
    listed = ", ".join(beside[:8]) + (", ..." if len(beside) > 8 else "")
    fix = f"YAML files in {folder}: {listed}" if beside else f"There is no YAML file in {folder}"
    return ConfigError(problem + nearest(path.name, beside), where=where, fix=fix)
