from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdray.errors import ConfigError
from kdray.experiment.schema import ModelSpec
from kdray.models.outputs import ModelInfo, Outputs
from kdray.models.zoo import describe
from kdray.objectives import ObjectiveSet, Setup, needs
from kdray.objectives.review import Review, ReviewConfig, hierarchical_distance

from .cases import STEP, build, make_case, make_setup


def averaged(maps: Tensor, level: int) -> Tensor:
    """Cell k of a side of `size` spans floor(k size / level) to ceil((k + 1) size / level): they may overlap."""
    height, width = maps.shape[-2:]
    rows = []
    for y in range(level):
        top, bottom = y * height // level, -(-(y + 1) * height // level)
        cells = []
        for x in range(level):
            left, right = x * width // level, -(-(x + 1) * width // level)
            cells.append(maps[:, :, top:bottom, left:right].mean(dim=(2, 3)))
        rows.append(torch.stack(cells, dim=2))
    return torch.stack(rows, dim=2)


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    total, weights = ((student - teacher) ** 2).mean(), [1.0]
    for level in (4, 2, 1):
        if level < min(student.shape[-2:]):
            weights.append(weights[-1] / 2)
            total = total + weights[-1] * ((averaged(student, level) - averaged(teacher, level)) ** 2).mean()
    return total / sum(weights)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(0, 3), st.integers(0, 99))
def test_distance_equals_loops(rows: int, channels: int, side: int, wider: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, channels, side, side + wider, generator=random, dtype=torch.float64)
    torch.testing.assert_close(hierarchical_distance(student, teacher), distance(student, teacher))
    assert hierarchical_distance(student, student).item() == 0.0


def test_distance_of_a_constant_is_the_same_at_every_level() -> None:
    for side in (1, 2, 3, 8):
        student, teacher = torch.full((2, 3, side, side), 5.0), torch.full((2, 3, side, side), 2.0)
        assert hierarchical_distance(student, teacher).item() == pytest.approx(9.0)


def test_weights_of_the_levels() -> None:
    """A checkerboard averages to 0 at every level but the full one: 1 / (1 + 1/2 + 1/4 + 1/8) of it is left."""
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]
    assert hierarchical_distance(board, torch.zeros_like(board)).item() == pytest.approx(1 / 1.875)
    small = board[..., :4, :4]  # 4x4 is the map itself: levels 2 and 1
    assert hierarchical_distance(small, torch.zeros_like(small)).item() == pytest.approx(1 / 1.75)
    tiny = board[..., :2, :2]
    assert hierarchical_distance(tiny, torch.zeros_like(tiny)).item() == pytest.approx(1 / 1.5)


def normed(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for c in range(x.shape[1]):
        mean = x[:, c].mean()
        out[:, c] = (x[:, c] - mean) / (((x[:, c] - mean) ** 2).mean() + 1e-5).sqrt() * scale[c] + shift[c]
    return out


def nearest(maps: Tensor, height: int, width: int) -> Tensor:
    """Place (i, j) of the new map is the old one's at (i H / height, j W / width), rounded down."""
    rows = [i * maps.shape[2] // height for i in range(height)]
    columns = [j * maps.shape[3] // width for j in range(width)]
    return maps[:, :, rows][:, :, :, columns]


def fused(member: Review, student: Outputs, teacher: Outputs) -> Tensor:
    """The whole loss by einsums: nearest places by index, the 3x3 convolution as nine shifted maps."""
    own = [*student.stages, student.pooled[:, :, None, None]][::-1]
    targets = [*teacher.preact, teacher.pooled[:, :, None, None]][::-1]
    total, deeper = student.pooled.new_zeros(()), None
    for fusion, x, target in zip(member.fusions, own, targets, strict=True):
        height, width = x.shape[2:]
        x = torch.einsum("oc,nchw->nohw", fusion.enter.weight[:, :, 0, 0], x)
        x = normed(x, fusion.enter_norm.weight, fusion.enter_norm.bias)
        if deeper is not None:
            deeper = nearest(deeper, height, width)
            gates = torch.einsum("oc,nchw->nohw", fusion.gate.weight[:, :, 0, 0], torch.cat([x, deeper], dim=1))
            gates = 1 / (1 + (-gates - fusion.gate.bias[None, :, None, None]).exp())
            x = x * gates[:, 0][:, None] + deeper * gates[:, 1][:, None]
        height, width = target.shape[2:]
        deeper = x = nearest(x, height, width)
        out = x.new_zeros(len(x), target.shape[1], height, width)
        padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
        for i in range(3):
            for j in range(3):
                shifted = padded[:, :, i : i + height, j : j + width]
                out = out + torch.einsum("oc,nchw->nohw", fusion.leave.weight[:, :, i, j], shifted)
        total = total + distance(normed(out, fusion.leave_norm.weight, fusion.leave_norm.bias), target.detach())
    return total


Sides = list[tuple[int, int]]


def sized(student: Sides, teacher: Sides) -> Setup:
    """The usual setup with stages of these heights and widths."""

    def info(one: ModelInfo, sides: Sides) -> ModelInfo:
        return replace(one, stage_shapes=tuple((4 + k, *side) for k, side in enumerate(sides)))

    setup = make_setup()
    assert setup.teacher is not None
    return replace(setup, student=info(setup.student, student), teacher=info(setup.teacher, teacher))


SIZES: dict[str, tuple[Sides, Sides]] = {
    "equal": ([(8, 8), (4, 4), (2, 2)], [(8, 8), (4, 4), (2, 2)]),
    "the student's half": ([(8, 8), (4, 4), (2, 2)], [(16, 16), (8, 8), (4, 4)]),
    "the teacher's half": ([(16, 16), (8, 8), (4, 4)], [(8, 8), (4, 4), (2, 2)]),
    "a quarter": ([(8, 8), (4, 4)], [(2, 2), (1, 1)]),
    "oblong and not divisible": ([(7, 5), (3, 4)], [(5, 8), (4, 3)]),
    "smaller in one, larger in the other": ([(8, 8), (4, 4), (2, 2)], [(4, 4), (4, 4), (4, 4)]),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=list(SIZES))
def test_equals_loops(sizes: tuple[Sides, Sides]) -> None:
    setup = sized(*sizes)
    objectives = build({"type": "review", "hidden": 3, "schedule": "constant"}, setup)
    case, member = make_case(setup, 5), objectives.members["one"]
    with torch.no_grad():
        for name, parameter in member.named_parameters():
            if "norm" in name:
                parameter.add_(torch.linspace(-0.3, 0.3, len(parameter)))
    expected = fused(member, case.student, case.teacher)
    report = case.run(objectives)
    torch.testing.assert_close(report.parts["one"], expected.detach())
    torch.testing.assert_close(report.total, 5 * expected)
    wanted = torch.autograd.grad(5 * expected, case.student_pooled, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(report.total, case.student_pooled)[0], wanted)


def test_warm_up_is_the_published_one() -> None:
    (member,) = build({"type": "review"}, make_setup()).members.values()
    weights = [member.options.weight_at(replace(STEP, epoch=epoch, epochs=240)) for epoch in (0, 5, 20, 100)]
    assert weights == pytest.approx([0, 1.25, 5, 5])


def member(student: Setup | ModelInfo, teacher: ModelInfo | None = None, **params: Any) -> Review:
    setup = student if isinstance(student, Setup) else replace(make_setup(), student=student, teacher=teacher)
    return Review(ReviewConfig.model_validate(params), setup)


def test_channels_and_sizes_of_the_published_pairs() -> None:
    """in_channels, out_channels and out_shapes as the released code lists them, shallow to deep."""

    def published(student: str, teacher: str) -> tuple[list[int], list[int], list[int]]:
        one, two = (describe(ModelSpec(model=name), 100, 32) for name in (student, teacher))
        fusions = list(member(one, two).fusions)[::-1]
        widths = [f.enter.in_channels for f in fusions], [f.leave.out_channels for f in fusions]
        return *widths, [f.size[0] for f in fusions]

    assert published("resnet8x4", "resnet32x4") == ([64, 128, 256, 256], [64, 128, 256, 256], [32, 16, 8, 1])
    assert published("shufflenetv2", "resnet32x4") == ([116, 232, 464, 1024], [64, 128, 256, 256], [32, 16, 8, 1])
    widths = [128, 256, 512, 512, 512]
    assert published("vgg8", "vgg13") == (widths, widths, [16, 8, 4, 4, 1])
    assert published("mobilenetv2", "vgg13") == ([12, 16, 48, 160, 1280], widths, [16, 8, 4, 4, 1])
    wide = [256, 512, 1024, 2048, 2048]
    assert published("mobilenetv2", "resnet50_cifar") == ([12, 16, 48, 160, 1280], wide, [32, 16, 8, 4, 1])


@pytest.mark.parametrize("counts", [(1, 4), (2, 3), (4, 2)])
def test_unequal_stages_and_sizes(counts: tuple[int, int]) -> None:
    """Sides that do not divide each other, oblong maps, more stages on either side."""

    def info(name: str, count: int, side: int, width: int) -> ModelInfo:
        shapes = tuple((width + k, max(1, side >> k), max(1, (side + 3) >> k)) for k in range(count))
        return ModelInfo(name, num_classes=5, pooled_dim=width, stage_shapes=shapes)

    setup = replace(make_setup(), student=info("small", counts[0], 7, 4), teacher=info("large", counts[1], 10, 5))
    case, heads = make_case(setup, 3), build({"type": "review", "schedule": "constant"}, setup)
    case.run(heads).total.backward()
    assert case.student_pooled.grad.isfinite().all() and all(p.grad.any() for p in heads.parameters())
    assert len(heads.members["one"].fusions) == 1 + min(counts)


def test_which_side_of_the_activation_is_read() -> None:
    assert needs({"review": {}}).stages and needs({"review": {}}).preact
    assert not needs({"review": {"teacher": "stages"}}).preact
    only = needs({"review": {"student": "preact"}})
    assert only.preact and not only.stages
    setup = make_setup()
    case = make_case(setup)
    values = set()
    for student in ("stages", "preact"):
        for teacher in ("stages", "preact"):
            params = {"type": "review", "student": student, "teacher": teacher, "schedule": "constant"}
            values.add(round(case.run(build(params, setup)).total.item(), 9))
    assert len(values) == 4


def test_hidden_is_the_students_pooled_width_up_to_512() -> None:
    wide = ModelInfo("wide", num_classes=5, pooled_dim=600, stage_shapes=((8, 4, 4),))
    assert member(wide, wide).fusions[0].enter.out_channels == 512
    assert member(make_setup()).fusions[0].enter.out_channels == 6
    assert member(make_setup(), hidden=3).fusions[0].enter.out_channels == 3


def test_a_network_without_preactivations() -> None:
    setup = make_setup()
    setup = replace(setup, teacher=replace(setup.teacher, preact=False))
    with pytest.raises(ConfigError, match="large ends a stage in an activation that cannot be tapped") as error:
        ObjectiveSet({"review": {}}, setup)
    assert "objectives.review.teacher" in str(error.value)
    assert ObjectiveSet({"review": {"teacher": "stages"}}, setup).needs.stages
