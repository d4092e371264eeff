"""What an image transform is, and the register of all of them.

A transform is a small frozen config that does its own work. Its random numbers are handed to it, so a transform is a
plain function of (image, numbers) that gives the same pixels in every process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, ClassVar, TypeVar

import numpy as np
from pydantic import AfterValidator

from kdray.experiment.bounds import Natural
from kdray.experiment.part import Part, refuse

Size = tuple[int, int]  # height, width, in pixels


def _some_once(views: list[int]) -> list[int]:
    if not views or len(set(views)) < len(views):
        raise refuse("wants numbers of views, each once", "Write [1], or leave it out for all views", (), views)
    return views


class Op(Part, ABC):
    """One transform: a step of `data.augment` or `data.eval_transform`.

    Every transform takes two options: `views` are the numbers of the views that go through it (None: all of them), and
    `same` draws its random numbers once for all views of an image, those of view 0.
    """

    name: ClassVar[str]
    DRAWS: ClassVar[int] = 0

    views: Annotated[list[Natural], AfterValidator(_some_once)] | None = None
    same: bool = False

    @property
    def draws(self) -> int:
        """How many uniform random numbers it takes for one image; 0 is a transform that is not random."""
        return self.DRAWS

    @classmethod
    def parameters(cls) -> list[str]:
        """Names of all that it can be given: its own parameters, then what every transform takes."""
        return [*(name for name in cls.model_fields if name not in Op.model_fields), *Op.model_fields]

    def of_view(self, view: int) -> Op | None:
        """What images of `view` go through in the place of this transform; None where that is nothing."""
        return self if self.views is None or view in self.views else None

    @abstractmethod
    def apply(self, image: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return the transformed image uint8 [H', W', 3] of `image` uint8 [H, W, 3]; `u` float64 [draws] in [0, 1).

        Raises:
            DataError: the image is of a size that this transform cannot take.
            BadImage: the result would be too large; the image then counts as one that does not decode.
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
