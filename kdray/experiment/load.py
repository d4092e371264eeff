"""From files, `--set` and plain dicts to an `Experiment`, and back to YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from kdray.errors import ConfigError, nearest
from kdray.experiment.comparison import SHARED_KEYS, SINGLE_KEYS, Comparison
from kdray.experiment.explain import Problem, explain, problems, show
from kdray.experiment.matrix import Matrix
from kdray.experiment.matrix_axes import expand_matrix, refuse_both
from kdray.experiment.matrix_written import is_written_out, read_matrix
from kdray.experiment.merge import merge, teacher_train
from kdray.experiment.origin import CELLS, MATRIX, VARIANTS, Cells, Origin
from kdray.experiment.paths import resolve
from kdray.experiment.schema import Experiment
from kdray.experiment.sets import Set, in_order
from kdray.experiment.variants import NO_SEARCH, Layer, Trees, apply_set, expand
from kdray.experiment.yaml_text import Document, dotted, dump, parse


def load_experiment(path: str | FilePath, sets: Sequence[str] = (), variant: str | None = None) -> Experiment:
    """Return the experiment in the YAML file at `path`, with its `base:` files under it and `sets` over it.

    Each of `sets` is "dotted.path=value", the value written as in YAML; later ones win. An experiment without a
    name is called as its file. Of a file with variants, `variant` says which. Raises ConfigError: one message with
    file, line, key path, value and the way out.
    """
    return _one(load_comparison(path, sets, None if variant is None else [variant]), str(path))


def load_comparison(
    path: str | FilePath, sets: Sequence[str] = (), variants: Sequence[str] | None = None
) -> Comparison:
    """Return all experiments of the file at `path`: one for each variant, or its only one.

    `variants` selects some; all are checked. Raises ConfigError as `load_experiment` does.
    """
    comparison = _validate(_read(path, sets))
    return comparison if variants is None else comparison.only(variants)


def read_tree(path: str | FilePath, sets: Sequence[str] = ()) -> dict[str, Any]:
    """Return the plain nested values that `load_comparison` checks: bases and `sets` merged in, nothing validated.

    What `get_path` and `set_path` work on, and `comparison_from_dict` turns into experiments: of a file with variants,
    each of them is whole. Raises ConfigError.
    """
    read = _read(path, sets)
    if not read.variants:
        return read.top
    shared = {key: value for key, value in read.top.items() if key in SHARED_KEYS}
    parts = {
        name: {key: value for key, value in tree.items() if key not in SHARED_KEYS}
        for name, tree in read.variants.items()
    }
    return shared | {VARIANTS: parts} | ({} if read.matrix is None else {MATRIX: read.matrix.plain()})


def place_of(path: str | FilePath, sets: Sequence[str], key: str) -> str:
    """Return where the dotted `key` was written: "file:line" or "--set ...", and the file alone for a default.

    For errors that are found after the file was read. Raises ConfigError as `load_experiment` does.
    """
    return written_at(path, sets, key)[0]


def written_at(path: str | FilePath, sets: Sequence[str], key: str) -> tuple[str, str]:
    """As `place_of`, and the key as it stands there: a matrix's cell has those of its axes and of the top."""
    read = _read(path, sets)
    tree = {**read.top, VARIANTS: read.variants, MATRIX: {CELLS: read.variants}}
    try:
        keys = resolve(tree, key)
    except ConfigError:  # a path into something that is no map: the nearest that is one was written somewhere
        return read.origin.place(resolve(tree, key.partition(".")[0])), key
    told = read.origin.told(keys)
    if told[:2] == (MATRIX, CELLS) and len(told) > 3 and _in_all(read.variants, told[3]):
        told = told[3:]
    return read.origin.place(keys), key if told == keys else dotted(told)


def _in_all(trees: Trees, key: str | int) -> bool:
    values = [tree.get(str(key)) for tree in trees.values()]
    return values.count(values[0]) == len(values)


def experiment_from_dict(values: Mapping[str, Any], where: str = "experiment", sets: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a nested dict with the keys of a file, except `base`; `where` names it in errors.

    Raises ConfigError as `load_experiment` does, with `where` in the place of file and line.
    """
    return _one(comparison_from_dict(values, where, sets), where)


def comparison_from_dict(values: Mapping[str, Any], where: str = "experiment", sets: Sequence[str] = ()) -> Comparison:
    """As `experiment_from_dict`, with variants or a matrix, or without."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"an experiment is a dict, not {show(values)}", where=where, fix="Give {'data': ..., ...}")
    top = {key: value for key, value in values.items() if key not in (VARIANTS, MATRIX)}
    layers = [_Layers(*(Layer(values.get(key), lambda _: where) for key in (VARIANTS, MATRIX)))]
    return _validate(_assemble(top, layers, [Set(text) for text in sets], where, []))


def to_yaml(experiment: Experiment | Comparison) -> str:
    """Return the whole experiment, defaults included, as YAML that loads to an equal one."""
    comparison = experiment if isinstance(experiment, Comparison) else Comparison.of(experiment)
    return dump(comparison.plain())


@dataclass(frozen=True)
class _Read:
    """A file read and laid over its bases: the keys at its top, and each variant or cell as a whole experiment."""

    top: dict[str, Any]
    variants: Trees
    origin: Origin
    matrix: Matrix | None = None


@dataclass(frozen=True)
class _Layers:
    """What one text has beside the keys of an experiment."""

    variants: Layer
    matrix: Layer


def _one(comparison: Comparison, where: str) -> Experiment:
    if len(comparison.experiments) == 1:
        return comparison.first
    names = ", ".join(comparison.experiments)
    raise ConfigError(f"has {len(comparison.experiments)} variants", where=where, fix=f"Name one of {names}")


def _validate(read: _Read) -> Comparison:
    experiments: dict[str, Experiment] = {}
    found: dict[str, list[Problem]] = {}
    for key in SINGLE_KEYS:
        if read.variants and read.top.get(key) is not None:
            problem = f"a file with variants cannot have a {key}"
            raise ConfigError(problem, where=f"{read.origin.place((key,))}: {key}", fix=NO_SEARCH)
    for name, tree in (read.variants or {"": read.top}).items():
        try:
            experiments[name] = Experiment.model_validate(teacher_train(tree))
        except ValidationError as error:
            found[name] = problems(error)
    if found:
        raise explain(_told_once(read, found) if read.variants else found[""], read.origin.place)
    return Comparison(experiments, read.matrix)


def _told_once(read: _Read, found: Mapping[str, list[Problem]]) -> list[Problem]:
    """The problems of variants under their names; what all have from the top of the file is told of once, as it is."""
    told: dict[Problem, None] = {}
    for name, listed in found.items():
        for path, said in listed:
            everywhere = len(found) == len(read.variants) and all((path, said) in one for one in found.values())
            if read.origin.cells:
                cell = (MATRIX, CELLS, name, *path)
                at = read.origin.told(cell)
                told[(path if at == cell and everywhere else at), said] = None
                continue
            own = any(read.origin.exact((VARIANTS, each, *path)) for each in found)
            shared = everywhere and not own and (len(found) > 1 or read.origin.exact(path) is not None)
            told[(path if shared else (VARIANTS, name, *path)), said] = None
    return list(told)


def _assemble(
    top: dict[str, Any], layers: Sequence[_Layers], sets: Sequence[Set], name: str, documents: list[Document]
) -> _Read:
    """Apply the sets of the top, lay the variants or the matrix over it, and apply theirs."""
    ordered = in_order(sets)
    for item in ordered:
        if item.parts[0] not in (VARIANTS, MATRIX):
            top = item.apply(top)
    trees = expand(top, [layer.variants for layer in layers])
    for item in ordered:
        if item.parts[0] == VARIANTS:
            trees = apply_set(top, trees, item)
    matrices = [layer.matrix for layer in layers]
    of_matrix = [item for item in ordered if item.parts[0] == MATRIX]
    cells: Cells = {}
    matrix: Matrix | None = None
    if is_written_out(matrices):
        matrix = read_matrix(matrices, of_matrix, trees)
    elif (expanded := expand_matrix(top, matrices, of_matrix)) is not None:
        if trees:
            raise refuse_both(expanded.where)
        trees, matrix, cells = expanded.trees, expanded.matrix, expanded.cells
    return _Read(top, trees, Origin(name, documents, ordered[::-1], cells), matrix)


def _read(path: str | FilePath, sets: Sequence[str]) -> _Read:
    changes = [Set(text) for text in sets]
    documents = _read_with_bases(FilePath(path))
    top: dict[str, Any] = {"name": None}
    layers: list[_Layers] = []
    for document in reversed(documents):
        top = merge(top, {key: value for key, value in document.value.items() if key not in ("base", VARIANTS, MATRIX)})
        layers.append(_Layers(*(Layer(document.value.get(key), document.place) for key in (VARIANTS, MATRIX))))
    if top["name"] is None:
        top["name"] = FilePath(path).stem
    return _assemble(top, layers, changes, str(path), documents)


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
