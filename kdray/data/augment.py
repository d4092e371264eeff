"""A list of transforms from the experiment file, made into one function of (image, random numbers)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import ValidationError

from kdray.data import auto_augment, color, erasing, rand_augment, transforms, trivial_augment  # noqa: F401  the register
from kdray.data.draws import uniforms
from kdray.data.ops import OPS, Op, Size
from kdray.errors import ConfigError, nearest
from kdray.experiment.explain import show


@dataclass(frozen=True)
class Augment:
    """Transforms in the order in which they are applied. `where` is their key in the experiment, for errors."""

    ops: tuple[Op, ...]
    where: str = "data.augment"
    _chains: dict[int, list[tuple[Op, slice]]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def random(self) -> bool:
        """Whether the result depends on anything but the image."""
        return any(op.draws for op in self.ops)

    def draw(self, seed: int, epoch: int, ids: np.ndarray, view: int) -> np.ndarray:
        """Return the random numbers of all transforms, float64 [n, K], for the samples `ids` int64 [n].

        A transform's numbers depend on its name and on how many of the same name stand before it, so adding another
        kind of transform to the list leaves them as they are. Those of transforms that `view` does not go through are
        zeros.
        """
        parts = [
            uniforms(seed, epoch, ids, 0 if op.same else view, tag, op.draws)
            if op.of_view(view) is not None
            else np.zeros((len(ids), op.draws))
            for op, tag in zip(self.ops, self._tags(), strict=True)
        ]
        return np.concatenate([np.empty((len(ids), 0)), *parts], axis=1)

    def columns(self) -> list[slice]:
        """Where each transform's numbers stand in the K columns of `draw`."""
        ends = np.cumsum([op.draws for op in self.ops]).tolist()
        return [slice(end - op.draws, end) for op, end in zip(self.ops, ends, strict=True)]

    def chain(self, view: int) -> list[tuple[Op, slice]]:
        """What images of `view` go through, each with the place of its numbers in the K columns of `draw`."""
        if view not in self._chains:
            steps = [(op.of_view(view), at) for op, at in zip(self.ops, self.columns(), strict=True)]
            self._chains[view] = [(op, at) for op, at in steps if op is not None]
        return self._chains[view]

    def apply(self, image: np.ndarray, u: np.ndarray, view: int = 0) -> np.ndarray:
        """Return the `view` uint8 [H', W', 3] of `image` uint8 [H, W, 3], with `u` [K] of `draw` for that view."""
        for op, at in self.chain(view):
            image = op.apply(image, u[at])
        return image

    def output_size(self, size: Size | None, view: int = 0) -> Size | None:
        """Size of what comes out for images of `size`; None where it is not known."""
        for op, _ in self.chain(view):
            size = op.output_size(size)
        return size

    def _tags(self) -> list[int]:
        names = [op.name for op in self.ops]
        return [zlib.crc32(f"{name}#{names[:i].count(name)}".encode()) for i, name in enumerate(names)]


def build_augment(
    entries: Sequence[str | Mapping[str, Any]], where: str = "data.augment", views: int | None = None
) -> Augment:
    """Make the transforms that `entries` of an experiment name: `flip`, or `{pad_crop: {padding: 4}}`.

    `views` is how many views of an image there are, where that is known.

    Raises:
        ConfigError: unknown transform or parameter (with the nearest name), or a value out of range, by its key path;
            a transform of a view that there is not.
    """
    augment = Augment(tuple(_op(entry, f"{where}.{i}") for i, entry in enumerate(entries)), where)
    for i, op in enumerate(augment.ops):
        beyond = [view for view in op.views or () if views is not None and view >= views]
        if beyond:
            raise ConfigError(
                f"there is no view {beyond[0]}: data.views is {views}, and the first view is 0",
                where=f"{where}.{i}.{op.name}.views",
                fix="Raise data.views, or leave that view out",
            )
    return augment


def build_transform(entries: Sequence[str | Mapping[str, Any]], where: str = "data.eval_transform") -> Augment:
    """As `build_augment`, for evaluation: a random transform is an error, because every image counts as it is."""
    augment = build_augment(entries, where)
    for i, op in enumerate(augment.ops):
        if op.views is not None:
            raise ConfigError(
                "an image has one view in evaluation", where=f"{where}.{i}.{op.name}.views", fix="Leave it out"
            )
        if op.draws:
            raise ConfigError(
                f"{op.name} is random, and evaluation is not",
                where=f"{where}.{i}",
                fix="Use resize and center_crop here, and random transforms in data.augment",
            )
    return augment


def output_size(
    entries: Sequence[str | Mapping[str, Any]], size: Size | None, where: str = "data.eval_transform", views: int = 1
) -> int | None:
    """Return the side of the square images that come out for images of `size` (height, width; None = unknown).

    None when it cannot be known, is not square, or differs between the `views`.
    """
    augment = build_augment(entries, where)
    sizes = {augment.output_size(size, view) for view in range(views)}
    only = sizes.pop() if len(sizes) == 1 else None
    return only[0] if only is not None and only[0] == only[1] else None


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
    fields = op.parameters()
    parameters = f"Parameters: {', '.join(fields)}"
    if item["type"] == "model_type":
        return ConfigError(f"{show(item['input'])} is not a map of parameters", where=where, fix=parameters)
    if item["type"] == "kdray":
        said = item["ctx"]
        where = ".".join(map(str, (where, *item["loc"][:1], *said["at"])))
        return ConfigError(f"{said['problem']}, but {show(said['value'])} stands there", where=where, fix=said["fix"])
    key = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        return ConfigError(f"{op.name} has no parameter {key!r}{nearest(key, fields)}", where=where, fix=parameters)
    where = f"{where}.{key}"
    if item["type"] == "missing":
        return ConfigError("is missing", where=where, fix=f"Write {{{op.name}: {{{key}: 224}}}}")
    branches = [other["msg"] for other in more if other["loc"][0] == key]  # of a union, each says what it takes
    takes = " or ".join([item["msg"], *(text.removeprefix("Input should be ") for text in branches)])
    return ConfigError(f"{show(item['input'])}: {takes.removeprefix('Input ')}", where=where, fix=parameters)
