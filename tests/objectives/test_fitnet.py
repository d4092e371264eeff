from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdray.experiment.schema import ModelSpec
from kdray.models.outputs import ModelInfo
from kdray.models.zoo import describe
from kdray.objectives import Setup
from kdray.objectives.fitnet import FitNet, FitNetConfig

from .cases import build, make_case, make_setup, mapped


def regressed(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, relu: bool) -> Tensor:
    """1x1 convolution, batch norm over rows and places, ReLU: by loops over channels."""
    n, _, height, width = x.shape
    out = x.new_zeros(n, len(weight), height, width)
    for c in range(len(weight)):
        for k in range(x.shape[1]):
            out[:, c] += weight[c, k, 0, 0] * x[:, k]
        mean = out[:, c].mean()
        variance = ((out[:, c] - mean) ** 2).mean()
        out[:, c] = (out[:, c] - mean) / (variance + 1e-5).sqrt() * scale[c] + shift[c]
    return out.clamp_min(0) if relu else out


@pytest.mark.parametrize("relu", [True, False])
def test_equals_loops(relu: bool) -> None:
    setup = make_setup()
    objectives, case = build({"type": "fitnet", "relu": relu}, setup), make_case(setup)
    regressor = objectives.members["one"].regressor
    with torch.no_grad():
        regressor.norm.weight.copy_(torch.linspace(0.5, 2, 7))
        regressor.norm.bias.copy_(torch.linspace(-1, 1, 7))
    s, t = case.student.stages[1], case.teacher.stages[1].detach()
    out = regressed(s, regressor.conv.weight, regressor.norm.weight, regressor.norm.bias, relu)
    expected = s.new_zeros(())
    for row in range(len(s)):
        expected = expected + ((out[row] - t[row]) ** 2).sum() / t[row].numel() / len(s)
    report = case.run(objectives)
    torch.testing.assert_close(report.parts["one"], expected.detach())
    torch.testing.assert_close(report.total, 100 * expected)
    wanted = torch.autograd.grad(100 * expected, case.student_pooled, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(report.total, case.student_pooled)[0], wanted)


def member(setup: Setup, **params: Any) -> FitNet:
    return FitNet(FitNetConfig.model_validate(params), setup)


def test_the_hint_is_given_at_the_stage_that_the_benchmarks_call_two() -> None:
    """RepDistiller's feat[2]: layer2 of a ResNet, block2 (the third) of a VGG, the second of MobileNetV2."""

    def places(student: str, teacher: str) -> tuple[tuple[int, int], tuple[int, ...]]:
        one, two = (describe(ModelSpec(model=name), 100, 32) for name in (student, teacher))
        found = member(replace(make_setup(), student=one, teacher=two))
        return found.pair, found.regressor.conv.kernel_size

    assert places("resnet8x4", "resnet32x4") == ((1, 1), (1, 1))
    assert places("vgg8", "vgg13") == ((2, 2), (1, 1))
    assert places("mobilenetv2", "vgg13") == ((1, 2), (1, 1))
    assert places("shufflenetv1", "resnet32x4") == ((1, 1), (4, 4))
    assert places("mobilenetv2", "resnet50_cifar") == ((1, 1), (4, 4))


def test_parameters_of_the_published_pair() -> None:
    """resnet32x4 to resnet8x4: 128 x 128 weights and a batch norm; the published 16.8k count a bias as well."""
    one, two = (describe(ModelSpec(model=name), 100, 32) for name in ("resnet8x4", "resnet32x4"))
    heads = member(replace(make_setup(), student=one, teacher=two))
    assert sum(p.numel() for p in heads.parameters()) == 128 * 128 + 2 * 128 == 16768 - 128


def test_a_single_stage_takes_the_hint_itself() -> None:
    info = ModelInfo("flat", num_classes=5, pooled_dim=6, stage_shapes=((6, 4, 4),))
    assert member(replace(make_setup(), student=info)).pair == (0, 2)


def test_zero_where_the_regressor_finds_the_teacher() -> None:
    """The teacher's map is what the regressor makes of the student's."""
    setup = make_setup()
    objectives, case = build({"type": "fitnet"}, setup), make_case(setup)
    found, _ = objectives.members["one"].regressor.meet(case.student.stages[1], case.teacher.stages[1])
    case.teacher = mapped(case.teacher, Tensor.detach)
    case.teacher.stages[1] = found.detach()
    assert case.run(objectives).total.item() == 0.0
