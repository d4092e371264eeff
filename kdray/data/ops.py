"""What an image transform is, and the register of all of them.

A transform is a small frozen config that does its own work. Its random numbers are handed to it, so a transform is a
plain function of (image, numbers) that gives the same pixels in every process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeVar

import numpy as np

from kdray.experiment.part import Part

Size = tuple[int, int]  # height, width, in pixels


class Op(Part, ABC):
    """One transform: a step of `data.augment` or `data.eval_transform`.

    `draws` is how many uniform random numbers it takes for one image; 0 is a transform that is not random.
    """

    name: ClassVar[str]
    draws: ClassVar[int] = 0

    @abstractmethod
    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return the transformed image uint8 [H', W', 3] of `image` uint8 [H, W, 3]; `u` float64 [draws] in [0, 1).

        Raises:
            DataError: the image is of a size that this transform cannot take.
        """

    def output_size(self, size: Size | None) -> Size | None:
        """Return the size of the result for images of `size`; None where it is not known or not always the same."""
        return size


OPS: dict[str, type[Op]] = {}
OpClass = TypeVar("OpClass", bound=type[Op])


def register(name: str) -> Callable[[OpClass], OpClass]:
    """Make an Op known under `name` in the lists of an experiment file."""

    def add(cls: OpClass) -> OpClass:
        if name in OPS:
            raise ValueError(f"two transforms are called {name!r}: {OPS[name].__name__} and {cls.__name__}")
        cls.name = name
        OPS[name] = cls
        return cls

    return add
