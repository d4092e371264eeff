"""What the feature-map methods share: which stage meets which, maps of different sizes, convolutions as heads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import torch.nn.functional as F
from pydantic import AfterValidator, BeforeValidator
from torch import Tensor, nn

from kdray.errors import ConfigError
from kdray.objectives.contract import ObjectiveConfig, Setup
from kdray.objectives.norm import BatchNorm

if TYPE_CHECKING:
    from kdray.models.outputs import ModelInfo

LAST = 4
"""How many stages take part by default: with the stages of this library, those that the CIFAR-100 literature compares
(it leaves out the first block of a VGG, as it does the stem of the others)."""


def _both(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if isinstance(pair, list | tuple) and len(pair) == 2 and all(type(one) is int for one in pair):
        return pair[0], pair[1]
    raise ValueError(f"{value!r} is no stage: write a number, or [student, teacher]")


def _position(value: int) -> int:
    if value == 0:
        raise ValueError("stages are counted from 1, or from -1 at the deep end")
    return value


Position = Annotated[int, AfterValidator(_position)]
StagePair = Annotated[tuple[Position, Position], BeforeValidator(_both)]
"""A stage of the student and one of the teacher, counted from 1 (-1 is the last); one number means it of both."""


def _list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


StagePairs = Annotated[tuple[StagePair, ...], BeforeValidator(_list)]


class StagesConfig(ObjectiveConfig):
    """`stages`: list of stages that are compared, each a number (1 is the first, -1 the last) or a pair [student,
    teacher]. Left out: the last four of each network at most, matched from the deep end."""

    stages: StagePairs | None = None


def pair_stages(
    setup: Setup, stages: tuple[tuple[int, int], ...] | None, where: str = "stages"
) -> list[tuple[int, int]]:
    """Positions from 0 of the stages that meet, (student, teacher), shallow to deep by default.

    Raises:
        ConfigError: a network without stages, a position that it does not have, or an empty list.
    """
    assert setup.teacher is not None
    counts = len(setup.student.stage_shapes), len(setup.teacher.stage_shapes)
    if min(counts) == 0:
        name = (setup.student if counts[0] == 0 else setup.teacher).name
        raise ConfigError(f"{name} hands out no feature maps", where=where, fix="Use objectives that read vectors")
    if stages is None:
        matched = min(*counts, LAST)
        return [(counts[0] - k, counts[1] - k) for k in range(matched, 0, -1)]
    if not stages:
        raise ConfigError("the list is empty", where=where, fix="Leave it out for the last four stages")
    for pair in stages:
        for position, count in zip(pair, counts, strict=True):
            if abs(position) > count:
                raise ConfigError(
                    f"there is no stage {position}: {shapes_text(setup)}", where=where, fix="Count from 1"
                )
    return [tuple(p - 1 if p > 0 else p + n for p, n in zip(pair, counts, strict=True)) for pair in stages]  # type: ignore[misc]


def shapes_text(setup: Setup) -> str:
    """The stages of both networks, for messages."""
    assert setup.teacher is not None

    def one(model: ModelInfo) -> str:
        return f"{model.name} has {', '.join('x'.join(str(n) for n in shape) for shape in model.stage_shapes)}"

    return f"{one(setup.student)}; {one(setup.teacher)}"


def check_preact(setup: Setup, where: str) -> None:
    """Raise ConfigError where a network cannot hand out its maps before their activation."""
    assert setup.teacher is not None
    for model in (setup.student, setup.teacher):
        if not model.preact:
            problem = f"{model.name} ends a stage in an activation that cannot be tapped"
            raise ConfigError(problem, where=where, fix="Name stages that end in a module such as nn.ReLU")


def check_positions(setup: Setup, pairs: list[tuple[int, int]], method: str) -> None:
    """Raise ConfigError where a pair of maps shares a single place, so that `method` would compare constants."""
    assert setup.teacher is not None
    student, teacher = setup.student.stage_shapes, setup.teacher.stage_shapes
    flat = [(s, t) for s, t in pairs if math.prod(common_size(student[s], teacher[t])) == 1]
    if flat:
        s, t = flat[0]
        left = [[s + 1, t + 1] for s, t in pairs if (s, t) not in flat]
        problem = f"{method} compares places, and stages {s + 1} and {t + 1} share only one: {shapes_text(setup)}"
        fix = f"Set stages to {left}" if left else "Use objectives that read vectors"
        raise ConfigError(problem, where="stages", fix=fix)


def common_size(student: tuple[int, ...], teacher: tuple[int, ...]) -> tuple[int, int]:
    """(H, W) to which both of two shapes (C, H, W) can be pooled."""
    return min(student[1], teacher[1]), min(student[2], teacher[2])


def pool_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average [n, C, H, W] over even cells to `size`; the map itself where it has that size."""
    return maps if tuple(maps.shape[-2:]) == tuple(size) else F.adaptive_avg_pool2d(maps, size)


def pool_larger(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [n, C, H, W] at one size: the larger is averaged down, along each side by itself."""
    size = common_size(tuple(student.shape[1:]), tuple(teacher.shape[1:]))
    return pool_to(student, size), pool_to(teacher, size)


class Conv(nn.Conv2d):
    """A convolution that follows its input's dtype and, at stride 1, keeps its size; without bias unless asked."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, bias: bool = False
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv2d(x, self.weight.to(x.dtype), bias, self.stride, self.padding)


class Double(nn.ConvTranspose2d):
    """A transposed 4x4 convolution that doubles both sides, without bias; it follows its input's dtype."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 4, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return F.conv_transpose2d(x, self.weight.to(x.dtype), None, stride=2, padding=1)


class Regressor(nn.Module):
    """From a student's map to the teacher's shape: convolution, batch norm over all workers and, if asked, ReLU.

    The convolution is 3x3 with stride 2 where the student's map is twice the teacher's, transposed 4x4 where it is
    half of it, and 1x1 otherwise; with the 1x1, `meet` pools the larger of two maps of different size.
    """

    def __init__(self, student: tuple[int, ...], teacher: tuple[int, ...], relu: bool) -> None:
        super().__init__()
        (s, *size_s), (t, *size_t) = student, teacher
        if size_s == [2 * side for side in size_t]:
            self.conv: nn.Module = Conv(s, t, 3, stride=2)
        elif size_t == [2 * side for side in size_s]:
            self.conv = Double(s, t)
        else:
            self.conv = Conv(s, t, 1)
        self.pools = isinstance(self.conv, Conv) and self.conv.kernel_size == (1, 1)
        self.norm = BatchNorm(t)
        self.relu = relu

    def meet(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The student's map in the teacher's space, and the teacher's at the same size."""
        if self.pools:
            student, teacher = pool_larger(student, teacher)
        out = self.norm(self.conv(student))
        return (out.relu() if self.relu else out), teacher
