"""Which key of the experiment an error is about, where the room that found it could not know.

A model does not know whether it is teacher or student. `where` of an error begins with the key's path, and what follows
a space is the place itself: "student.stages (torchvision/resnet18)", "teacher.weights s3://bucket/resnet56.safetensors".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kdray.errors import KdrayError, ModelError, StoreError
from kdray.experiment import Comparison, Experiment
from kdray.experiment.comparison import SHARED_KEYS
from kdray.experiment.load import written_at

_MODEL = re.compile(r"model (?P<name>\S+?)(?:, (?P<key>.+))?")


@contextmanager
def named(key: str) -> Iterator[None]:
    """Put `key` before the place that a storage error in the block names."""
    try:
        yield
    except StoreError as error:
        raise _moved(error, f"{key} {error.where}" if error.where else key) from error


@contextmanager
def named_model(role: str) -> Iterator[None]:
    """Say that a model's error in the block is about the `teacher` or the `student`."""
    try:
        yield
    except ModelError as error:
        raise _moved(error, _of_model(role, error.where or "model")) from error
    except StoreError as error:
        raise _moved(error, f"{role}.weights {error.where or ''}".rstrip()) from error


def _of_model(role: str, where: str) -> str:
    match = _MODEL.fullmatch(where)
    if match is None:
        return f"{role}.{where}" if where.isidentifier() else f"{role}.model ({where})"
    key = match["key"] if match["key"] and match["key"].isidentifier() else "model"
    return f"{role}.{key} ({match['name']})"


def key_of(where: str | None) -> str | None:
    """The key path of the experiment that `where` begins with; None when it begins with something else."""
    head = (where or "").partition(" ")[0]
    top = head.partition(".")[0]
    return head if top in (*Experiment.model_fields, "variants", "matrix") and "/" not in head else None


def in_file(error: KdrayError, path: str, sets: Sequence[str]) -> KdrayError:
    """`error` with the file and the line, where it is about a key of the experiment and does not say so itself."""
    key = key_of(error.where)
    if key is None:
        return error
    place, told = written_at(path, sets, key)
    return _moved(error, f"{place}: {told}{(error.where or '')[len(key) :]}")


@contextmanager
def in_variant(comparison: Comparison, variant: str) -> Iterator[None]:
    """Say of an error in the block which variant it is about, unless its key is the same in all of them."""
    try:
        yield
    except KdrayError as error:
        key = (key_of(error.where) or "").partition(".")[0]
        parts = [getattr(each, key, None) for each in comparison.experiments.values()]
        shared = len(parts) > 1 and parts.count(parts[0]) == len(parts)
        # What all cells of a matrix have may stand in an axis all the same: `in_file` looks.
        if not variant or key in ("", "variants", "matrix", *SHARED_KEYS) or (shared and comparison.matrix is None):
            raise
        raise _moved(error, f"{comparison.key_of(variant)}.{error.where}") from error


def _moved(error: KdrayError, where: str) -> KdrayError:
    return type(error)(error.problem, where=where, fix=error.fix)
