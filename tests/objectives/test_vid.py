from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdray.errors import ConfigError
from kdray.objectives import ObjectiveSet
from kdray.objectives.vid import negative_log_likelihood

from .cases import build, make_case, make_setup


def loops(mean: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    terms = []
    for row, wanted in zip(mean, target, strict=True):
        for c in range(len(variance)):
            for a, b in zip(row[c].flatten(), wanted[c].flatten(), strict=True):
                terms.append(((a - b) ** 2 / variance[c] + variance[c].log()) / 2)
    return torch.stack(terms).mean()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_equals_loops(rows: int, channels: int, height: int, width: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    mean, target = torch.randn(2, rows, channels, height, width, generator=random, dtype=torch.float64)
    variance = torch.rand(channels, generator=random, dtype=torch.float64) * 5 + 0.01
    leaves = mean.requires_grad_(), variance.requires_grad_()
    ours, theirs = negative_log_likelihood(mean, target, variance), loops(mean, target, variance)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x, leaves) for x in (ours, theirs)))


@pytest.mark.parametrize("stages", [None, [[1, 2]], [[2, 1]]])
def test_the_whole_loss(stages: list | None) -> None:
    """Regressor by matrix products, the larger map pooled by hand, variances of different size per channel."""
    setup = make_setup()
    objectives, case = build({"type": "vid", "stages": stages, "hidden": 5}, setup), make_case(setup)
    member = objectives.members["one"]
    expected = case.student_pooled.new_zeros(())
    for (s, t), gaussian in zip(member.pairs, member.gaussians, strict=True):
        with torch.no_grad():
            gaussian.scale.copy_(torch.linspace(-2, 3, len(gaussian.scale)))
        x, y = case.student.stages[s], case.teacher.stages[t].detach()
        while x.shape[-1] != y.shape[-1]:
            if x.shape[-1] > y.shape[-1]:
                x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
            else:
                y = (y[..., ::2, ::2] + y[..., 1::2, ::2] + y[..., ::2, 1::2] + y[..., 1::2, 1::2]) / 4
        for layer in (0, 2, 4):
            x = torch.einsum("oc,nchw->nohw", gaussian.mean[layer].weight[:, :, 0, 0], x)
            x = x.clamp_min(0) if layer < 4 else x
        expected = expected + loops(x, y, (1 + gaussian.scale.exp()).log() + 1e-5)
    report = case.run(objectives)
    torch.testing.assert_close(report.total, expected)
    wanted = torch.autograd.grad(expected, case.student_pooled, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(report.total, case.student_pooled)[0], wanted)


def test_the_regressor_is_as_wide_as_the_teacher_unless_told_otherwise() -> None:
    def widths(**params: int) -> list[list[int]]:
        member = build({"type": "vid", **params}, make_setup()).members["one"]
        return [[gaussian.mean[layer].out_channels for layer in (0, 2, 4)] for gaussian in member.gaussians]

    assert widths() == [[5, 5, 5], [7, 7, 7], [9, 9, 9]]
    assert widths(hidden=3) == [[3, 3, 5], [3, 3, 7], [3, 3, 9]]


@pytest.mark.parametrize("variance", [1e-4, 0.3, 5.0, 200.0])
def test_variances_start_as_asked_and_there_is_one_per_channel(variance: float) -> None:
    member = build({"type": "vid", "variance": variance}, make_setup()).members["one"]
    assert [len(gaussian.scale) for gaussian in member.gaussians] == [5, 7, 9]
    for gaussian in member.gaussians:
        got = torch.nn.functional.softplus(gaussian.scale) + gaussian.floor
        torch.testing.assert_close(got, torch.full_like(got, variance), rtol=1e-4, atol=0)


def test_variances_are_trained() -> None:
    """An optimizer moves every one of them, each to the mean squared error of its own channel."""
    setup = make_setup()
    objectives, case = build({"type": "vid", "stages": [1]}, setup), make_case(setup)
    (gaussian,) = objectives.members["one"].gaussians
    case.teacher.stages[0] = case.teacher.stages[0].detach() * torch.linspace(0.2, 1, 5)[None, :, None, None]
    assert any(parameter is gaussian.scale for parameter in objectives.parameters())
    before = gaussian.scale.detach().clone()
    optimizer = torch.optim.Adam([gaussian.scale], lr=0.2)
    for step in range(300):
        optimizer.zero_grad()
        case.run(objectives).total.backward(retain_graph=True)
        optimizer.step()
        if step == 0:
            assert (gaussian.scale != before).all()
    error = (gaussian.mean(case.student.stages[0]) - case.teacher.stages[0]).square().mean(dim=(0, 2, 3)).detach()
    variance = (torch.nn.functional.softplus(gaussian.scale) + gaussian.floor).detach()
    torch.testing.assert_close(variance, error, rtol=0.02, atol=0)
    assert error.max() > 2 * error.min()


def test_floor_at_the_teacher() -> None:
    """A perfect mean leaves ln(variance) / 2: what a channel may gain is bounded by `floor`."""
    maps = torch.randn(2, 3, 4, 4)
    assert negative_log_likelihood(maps, maps, torch.ones(3)).item() == 0.0
    assert negative_log_likelihood(maps, maps, torch.full((3,), 1e-5)).item() == pytest.approx(math.log(1e-5) / 2)


def test_variance_must_be_above_the_floor() -> None:
    with pytest.raises(ConfigError, match="variance must be above floor"):
        ObjectiveSet({"vid": {"variance": 1e-5}}, make_setup())
