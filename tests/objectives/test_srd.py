from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdray.errors import ConfigError
from kdray.objectives import parse
from kdray.objectives.srd import log_sum

from .cases import build, make_case, make_setup


def normalised(x: Tensor, eps: float) -> Tensor:
    columns = []
    for k in range(x.shape[1]):
        column = x[:, k]
        mean = sum(column) / len(column)
        variance = sum((one - mean) ** 2 for one in column) / len(column)
        columns.append((column - mean) / (variance + eps) ** 0.5)
    return torch.stack(columns, dim=1)


def loops(student: Tensor, teacher: Tensor, exponent: float) -> Tensor:
    total = student.new_zeros(())
    for s, t in zip(student.flatten(), teacher.flatten(), strict=True):
        total = total + (s - t).abs() ** exponent
    return (total + 1e-8).log()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 4), st.floats(1, 6), st.integers(0, 1000))
def test_log_sum_equals_loops(rows: int, width: int, exponent: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, width, generator=random, dtype=torch.float64)
    student.requires_grad_()
    ours, theirs = log_sum(student, teacher, exponent), loops(student, teacher, exponent)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (ours, theirs)))


@pytest.mark.parametrize("options", [{}, {"exponent": 2, "eps": 0.1}])
def test_both_sides_are_normalised_after_the_projector(options: dict) -> None:
    setup = make_setup()
    case, objectives = make_case(setup, 5), build({"type": "srd", **options}, setup)
    (member,) = objectives.members.values()
    eps = options.get("eps", 1e-4)
    student = normalised(case.student_pooled @ member.project.weight.T, eps)
    expected = loops(student, normalised(case.teacher_pooled, eps), options.get("exponent", 4))
    report = case.run(objectives)
    torch.testing.assert_close(report.parts["one"], expected.detach())
    assert report.weights == {"one": 2.0}
    assert [name for name, _ in objectives.named_parameters()] == ["members.one.project.weight"]


def test_the_floor_is_the_logarithm_of_what_is_added() -> None:
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    value = log_sum(x, x.detach(), 4.0)
    value.backward()
    assert value.item() == pytest.approx(math.log(1e-8)) and torch.equal(x.grad, torch.zeros_like(x))


def test_scale_and_offset_of_a_feature_do_not_count() -> None:
    setup = make_setup(d_s=6, d_t=6)
    case, objectives = make_case(setup, 8), build({"type": "srd", "eps": 1e-12}, setup)
    (member,) = objectives.members.values()
    with torch.no_grad():
        member.project.weight.copy_(3.0 * torch.eye(6))
    case.student.pooled = case.teacher.pooled + 7.0
    assert case.run(objectives).parts["one"].item() == pytest.approx(math.log(1e-8))


def test_an_exponent_below_one_is_refused() -> None:
    """Its gradient at equal features is infinite."""
    with pytest.raises(ConfigError, match=r"objectives\.srd\.exponent"):
        parse({"srd": {"exponent": 0.5}})
