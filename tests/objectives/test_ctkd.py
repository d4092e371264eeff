from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.objectives.ctkd import kl_at, scale_gradient

from .cases import STEP, Case, build, make_case, make_setup


def loops(student: torch.Tensor, teacher: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
    total = student.new_zeros(())
    for s, t, temperature in zip(student, teacher, temperatures.expand(len(student)), strict=True):
        p = (t / temperature).exp() / (t / temperature).exp().sum()
        q = (s / temperature).exp() / (s / temperature).exp().sum()
        for c in range(len(s)):
            total = total + temperature**2 * p[c] * (p[c].log() - q[c].log())
    return total / len(student)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(0, 1000))
def test_equals_loops(rows: int, classes: int, per_row: bool, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, classes, generator=random, dtype=torch.float64)
    temperature = 1 + 20 * torch.rand(rows if per_row else 1, generator=random, dtype=torch.float64)
    temperature = temperature if per_row else temperature[0]
    leaves = student.requires_grad_(), temperature.requires_grad_()
    ours, theirs = kl_at(student, teacher, temperature), loops(student, teacher, temperature)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-9)
    gradients = [torch.autograd.grad(x, leaves) for x in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-9)


def at(epoch: float) -> float:
    return -0.5 * (1 - math.cos(math.pi * min(epoch / 10, 1)))


def run(params: dict, epoch: float) -> tuple[Case, torch.nn.Module, dict[str, torch.Tensor]]:
    """One backward at `epoch`: the case, the member, the reported parts."""
    setup = make_setup()
    case, objectives = make_case(setup), build({"type": "ctkd", **params}, setup)
    report = case.run(objectives, replace(STEP, epoch=epoch, epochs=240))
    report.total.backward()
    return case, objectives.members["one"], report.parts


def test_starts_at_the_published_temperature() -> None:
    case, _, parts = run({}, 0.0)
    assert parts["one.temperature"].item() == pytest.approx(1 + 20 / (1 + math.exp(-1)), abs=1e-5)
    assert parts["one.temperature"].item() == pytest.approx(15.62, abs=0.01)
    expected = loops(case.student.logits, case.teacher.logits, parts["one.temperature"])
    torch.testing.assert_close(parts["one"], expected.detach())


@pytest.mark.parametrize("seed", range(5))
def test_every_sample_starts_at_the_published_temperature(seed: int) -> None:
    """With 100 classes and logits as confident as a trained teacher's, which a usual start of the MLP would spread."""
    random = torch.Generator().manual_seed(seed)
    setup = replace(make_setup(classes=100, samples=200), seed=seed)
    (member,) = build({"type": "ctkd", "instance": True}, setup).members.values()
    s, t = 2 * torch.randn(2, 200, 100, generator=random, dtype=torch.float64)
    label = torch.arange(200) % 100
    for logits, confidence in ((s, 15.0), (t, 25.0)):
        logits[torch.arange(200), label] += confidence
    temperatures = 1 + 20 * member.mlp(torch.cat([t, s], dim=1)).sigmoid()
    assert (temperatures - 15.62).abs().max() < 0.1
    assert temperatures.std() > 0


@pytest.mark.parametrize("epoch", [0.0, 0.5, 3.0, 5.0, 10.0, 200.0])
def test_the_gradient_of_the_temperature_is_reversed_along_a_cosine(epoch: float) -> None:
    case, member, _ = run({}, epoch)
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    plain = 0.9 * loops(case.student.logits.detach(), case.teacher.logits.detach(), 1 + 20 * theta.sigmoid())
    torch.testing.assert_close(member.theta.grad, at(epoch) * torch.autograd.grad(plain, theta)[0])


def test_a_step_down_its_gradient_makes_the_task_harder() -> None:
    case, member, parts = run({}, 10.0)
    with torch.no_grad():
        member.theta -= 1e-3 * member.theta.grad
        harder = loops(case.student.logits, case.teacher.logits, 1 + 20 * member.theta.sigmoid())
    assert harder > parts["one"]


@pytest.mark.parametrize("params", [{}, {"instance": True, "hidden": 16}])
def test_the_student_goes_down_whatever_the_reversal(params: dict) -> None:
    """Its own gradient is that of KD at the temperature of the moment, never scaled or reversed."""
    gradients = [run(params, epoch)[0].student_pooled.grad for epoch in (0.0, 5.0, 100.0)]
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2])


def test_every_sample_has_its_temperature() -> None:
    case, member, parts = run({"instance": True, "hidden": 16}, 10.0)
    assert [tuple(p.shape) for p in member.parameters()] == [(16, 10), (16,), (1, 16), (1,)]
    first, _, last = member.mlp
    temperatures = []
    for s, t in zip(case.student.logits.detach(), case.teacher.logits.detach(), strict=True):
        hidden = (first.weight @ torch.cat([t, s]) + first.bias).clamp_min(0)
        temperatures.append(1 + 20 / (1 + torch.exp(-(last.weight @ hidden + last.bias)[0])))
    temperatures = torch.stack(temperatures)
    expected = loops(case.student.logits.detach(), case.teacher.logits.detach(), temperatures)
    torch.testing.assert_close(parts, {"one": expected.detach(), "one.temperature": temperatures.mean().detach()})
    reversed_gradients = torch.autograd.grad(-0.9 * expected, list(member.parameters()))
    torch.testing.assert_close([p.grad for p in member.parameters()], list(reversed_gradients))
    assert temperatures.std() > 0


def test_the_temperature_is_reported_and_never_added() -> None:
    setup = make_setup()
    report = make_case(setup).run(build({"type": "ctkd", "weight": 2, "lowest": 2, "span": 0}, setup))
    assert report.weights == {"one": 2.0, "one.temperature": 0.0} and report.parts["one.temperature"].item() == 2.0
    torch.testing.assert_close(report.total, 2 * report.parts["one"], check_dtype=False)


def test_zero_at_the_teacher() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64)
    assert kl_at(logits, logits, torch.linspace(1, 21, 5, dtype=torch.float64)).item() == 0.0


def test_without_epochs_the_reversal_is_whole_from_the_start() -> None:
    one, other = run({"reversal_epochs": 0, "reversal": 0.5}, 0.0)[1], run({}, 10.0)[1]
    torch.testing.assert_close(one.theta.grad, 0.5 * other.theta.grad)


def test_scaling_a_gradient_keeps_the_value() -> None:
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    y = scale_gradient(x, -0.3)
    assert torch.equal(x, y)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), x)[0], -0.6 * x.detach())


def test_standardised() -> None:
    setup = make_setup()
    case = make_case(setup)
    report = case.run(build({"type": "ctkd", "standardise": True}, setup))
    s, t = ((z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True) for z in (case.student.logits, case.teacher.logits))
    expected = loops(s, t, report.parts["one.temperature"]).detach()
    torch.testing.assert_close(report.parts["one"], expected, atol=1e-6, rtol=1e-5)
