"""A list of transforms from the experiment file, made into one function of (image, random numbers)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from kdray.data import transforms as _registered  # noqa: F401  importing it fills the register
from kdray.data.draws import uniforms
from kdray.data.ops import OPS, Op, Size
from kdray.errors import ConfigError, nearest
from kdray.experiment.explain import show


@dataclass(frozen=True)
class Augment:
    """Transforms in the order in which they are applied. `where` is their key in the experiment, for errors."""

    ops: tuple[Op, ...]
    where: str = "data.augment"

    @property
    def random(self) -> bool:
        """Whether the result depends on anything but the image."""
        return any(op.draws for op in self.ops)

    def draw(self, seed: int, epoch: int, ids: np.ndarray, view: int) -> np.ndarray:
        """Return the random numbers of all transforms, float64 [n, K], for the samples `ids` int64 [n].

        A transform's numbers depend on its name and on how many of the same name stand before it, so adding another
        kind of transform to the list leaves them as they are.
        """
        parts = [
            uniforms(seed, epoch, ids, view, tag, op.draws) for op, tag in zip(self.ops, self._tags(), strict=True)
        ]
        return np.concatenate([np.empty((len(ids), 0)), *parts], axis=1)

    def columns(self) -> list[slice]:
        """Where each transform's numbers stand in the K columns of `draw`."""
        ends = np.cumsum([op.draws for op in self.ops]).tolist()
        return [slice(end - op.draws, end) for op, end in zip(self.ops, ends, strict=True)]

    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return the transformed image uint8 [H', W', 3] of `image` uint8 [H, W, 3], with `u` [K] of `draw`."""
        at = 0
        for op in self.ops:
            image = op.apply(image, u[at : at + op.draws])
            at += op.draws
        return image

    def _tags(self) -> list[int]:
        names = [op.name for op in self.ops]
        return [zlib.crc32(f"{name}#{names[:i].count(name)}".encode()) for i, name in enumerate(names)]


def build_augment(entries: Sequence[str | Mapping[str, Any]], where: str = "data.augment") -> Augment:
    """Make the transforms that `entries` of an experiment name: `flip`, or `{pad_crop: {padding: 4}}`.

    Raises:
        ConfigError: unknown transform or parameter (with the nearest name), or a value out of range, by its key path.
    """
    return Augment(tuple(_op(entry, f"{where}.{i}") for i, entry in enumerate(entries)), where)


def build_transform(entries: Sequence[str | Mapping[str, Any]], where: str = "data.eval_transform") -> Augment:
    """As `build_augment`, for evaluation: a random transform is an error, because every image counts as it is."""
    augment = build_augment(entries, where)
    for i, op in enumerate(augment.ops):
        if op.draws:
            raise ConfigError(
                f"{op.name} is random, and evaluation is not",
                where=f"{where}.{i}",
                fix="Use resize and center_crop here, and random transforms in data.augment",
            )
    return augment


def output_size(
    entries: Sequence[str | Mapping[str, Any]], size: Size | None, where: str = "data.eval_transform"
) -> int | None:
    """Return the side of the square images that come out for images of `size` (height, width; None = unknown).

    None when it cannot be known, or is not square.
    """
    for op in build_augment(entries, where).ops:
        size = op.output_size(size)
    return size[0] if size is not None and size[0] == size[1] else None


def _op(entry: str | Mapping[str, Any], where: str) -> Op:
    name: Any
    params: Any = None
    if isinstance(entry, str):
        name = entry
    elif isinstance(entry, Mapping) and len(entry) == 1:
        ((name, params),) = entry.items()
    else:
        raise ConfigError(f"{show(entry)} is no transform", where=where, fix="Write a name, or {name: {parameter: 1}}")
    if name not in OPS:
        known = ", ".join(sorted(OPS))
        raise ConfigError(f"unknown transform {name!r}{nearest(str(name), OPS)}", where=where, fix=f"There are {known}")
    try:
        return OPS[name].model_validate({} if params is None else params)
    except ValidationError as error:
        raise _explain(error, OPS[name], f"{where}.{name}") from None


def _explain(error: ValidationError, op: type[Op], where: str) -> ConfigError:
    item, *more = error.errors(include_url=False)
    fields = list(op.model_fields)
    parameters = f"Parameters: {', '.join(fields)}"
    if item["type"] == "model_type":
        return ConfigError(f"{show(item['input'])} is not a map of parameters", where=where, fix=parameters)
    key = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        return ConfigError(f"{op.name} has no parameter {key!r}{nearest(key, fields)}", where=where, fix=parameters)
    where = f"{where}.{key}"
    if item["type"] == "missing":
        return ConfigError("is missing", where=where, fix=f"Write {{{op.name}: {{{key}: 224}}}}")
    if item["type"] == "kdray":
        return ConfigError(item["ctx"]["problem"] + f", but {show(item['input'])} stands there", where=where)
    branches = [other["msg"] for other in more if other["loc"][0] == key]  # of a union, each says what it takes
    said = " or ".join([item["msg"], *(text.removeprefix("Input should be ") for text in branches)])
    return ConfigError(f"{show(item['input'])}: {said.removeprefix('Input ')}", where=where, fix=parameters)
