from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from kdray.errors import ConfigError
from kdray.experiment.schema import ModelSpec
from kdray.models.outputs import ModelInfo
from kdray.models.zoo import describe
from kdray.objectives import ObjectiveSet, Setup, normalise
from kdray.objectives.connectors import Conv, Double, Regressor, pair_stages, pool_larger

from .cases import make_setup


def networks(student: tuple[tuple[int, ...], ...], teacher: tuple[tuple[int, ...], ...]) -> Setup:
    def info(name: str, shapes: tuple[tuple[int, ...], ...]) -> ModelInfo:
        return ModelInfo(name, num_classes=5, pooled_dim=6, stage_shapes=shapes)

    return replace(make_setup(), student=info("small", student), teacher=info("large", teacher))


def stages(count: int) -> tuple[tuple[int, ...], ...]:
    return tuple((3 + k, 64 >> k, 64 >> k) for k in range(count))


@pytest.mark.parametrize(
    ("counts", "pairs"),
    [
        ((3, 3), [(0, 0), (1, 1), (2, 2)]),
        ((4, 3), [(1, 0), (2, 1), (3, 2)]),
        ((5, 5), [(1, 1), (2, 2), (3, 3), (4, 4)]),
        ((4, 5), [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ((1, 4), [(0, 3)]),
    ],
)
def test_stages_match_from_the_deep_end_the_last_four_at_most(
    counts: tuple[int, int], pairs: list[tuple[int, int]]
) -> None:
    assert pair_stages(networks(stages(counts[0]), stages(counts[1])), None) == pairs


def test_stages_are_counted_from_one_and_back_from_minus_one() -> None:
    setup = networks(stages(3), stages(4))
    assert pair_stages(setup, ((1, 1), (2, -1), (-1, 4), (-3, -4))) == [(0, 0), (1, 3), (2, 3), (0, 0)]


@pytest.mark.parametrize(
    ("student", "teacher", "chosen", "said"),
    [
        (3, 4, ((4, 4),), r"no stage 4: small has 3x64x64, 4x32x32, 5x16x16; large has 3x64x64,"),
        (3, 4, ((1, -5),), r"no stage -5"),
        (3, 4, (), r"the list is empty"),
        (0, 4, None, r"small hands out no feature maps"),
        (3, 0, None, r"large hands out no feature maps"),
    ],
)
def test_stages_that_are_not_there(student: int, teacher: int, chosen: tuple | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pair_stages(networks(stages(student), stages(teacher)), chosen)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([0], "counted from 1"),
        ([[1, 2, 3]], r"\[1, 2, 3\] is no stage"),
        (["layer1"], "'layer1' is no stage"),
        ([True], "True is no stage"),
        ([[1, 2.0]], r"no stage: write a number, or \[student, teacher\]"),
    ],
)
def test_stages_that_are_no_positions(value: list, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        ObjectiveSet({"at": {"stages": value}}, make_setup())
    assert "objectives.at.stages" in str(error.value)


def test_one_number_is_the_pair_of_it() -> None:
    assert normalise({"at": {"stages": [1, 2]}}) == normalise({"at": {"stages": [[1, 1], [2, 2]]}})
    assert normalise({"fitnet": {"stage": 2}}) == normalise({"fitnet": {"stage": [2, 2]}})


def test_the_default_stages_are_those_of_the_literature() -> None:
    """Of a VGG blocks 1 to 4, of the others all: what RepDistiller calls feat[1:-1]."""

    def sizes(student: str, teacher: str) -> list[tuple[int, int]]:
        one, two = (describe(ModelSpec(model=name), 100, 32) for name in (student, teacher))
        setup = replace(make_setup(), student=one, teacher=two)
        return [(one.stage_shapes[s][1], two.stage_shapes[t][1]) for s, t in pair_stages(setup, None)]

    assert sizes("resnet20", "resnet56") == [(32, 32), (16, 16), (8, 8)]
    assert sizes("vgg8", "vgg13") == [(16, 16), (8, 8), (4, 4), (4, 4)]
    assert sizes("mobilenetv2", "vgg13") == [(16, 16), (8, 8), (4, 4), (2, 4)]
    assert sizes("mobilenetv2", "resnet50_cifar") == [(16, 32), (8, 16), (4, 8), (2, 4)]
    assert sizes("shufflenetv1", "resnet32x4") == [(16, 32), (8, 16), (4, 8)]


def test_the_larger_map_is_pooled_along_each_side() -> None:
    student, teacher = torch.rand(2, 3, 8, 2), torch.rand(2, 5, 4, 6)
    s, t = pool_larger(student, teacher)
    assert s.shape == (2, 3, 4, 2) and t.shape == (2, 5, 4, 2)
    torch.testing.assert_close(s[1, 2, 3, 1], student[1, 2, 6:8, 1].mean())
    torch.testing.assert_close(t[1, 4, 3, 1], teacher[1, 4, 3, 3:6].mean())
    assert pool_larger(student, student)[0] is student


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "kernel"),
    [
        ((3, 8, 8), (5, 8, 8), Conv, (1, 1)),
        ((3, 8, 8), (5, 4, 4), Conv, (3, 3)),
        ((3, 4, 4), (5, 8, 8), Double, (4, 4)),
        ((3, 7, 7), (5, 4, 4), Conv, (1, 1)),
        ((3, 2, 2), (5, 8, 8), Conv, (1, 1)),
    ],
)
def test_regressor_meets_the_teacher(
    student: tuple[int, ...], teacher: tuple[int, ...], kind: type, kernel: tuple[int, int]
) -> None:
    regressor = Regressor(student, teacher, relu=True)
    assert type(regressor.conv) is kind and regressor.conv.kernel_size == kernel
    x, y = torch.randn(4, *student, dtype=torch.float64), torch.randn(4, *teacher, dtype=torch.float64)
    out, target = regressor.meet(x, y)
    assert out.shape == target.shape and out.dtype == torch.float64 and (out >= 0).all()
    plain, _ = Regressor(student, teacher, relu=False).meet(x, y)
    assert (plain < 0).any()


def test_convolutions_are_torchs() -> None:
    x = torch.randn(2, 3, 5, 5)
    one, three, double = Conv(3, 4, 1), Conv(3, 4, 3, stride=2, bias=True), Double(3, 4)
    assert one.bias is None and double.bias is None
    assert torch.equal(one(x), F.conv2d(x, one.weight))
    assert torch.equal(three(x), F.conv2d(x, three.weight, three.bias, stride=2, padding=1))
    assert torch.equal(double(x), F.conv_transpose2d(x, double.weight, stride=2, padding=1))
    assert double(x).shape == (2, 4, 10, 10)
