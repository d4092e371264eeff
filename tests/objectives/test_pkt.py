from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdray.objectives.pkt import probabilistic_transfer

from .cases import build, make_case, make_setup


def distribution(x: Tensor, i: int) -> list[Tensor]:
    similar = []
    for j in range(len(x)):
        lengths = (x[i] * x[i]).sum().sqrt() * (x[j] * x[j]).sum().sqrt()
        similar.append((1 + (x[i] * x[j]).sum() / lengths) / 2)
    return [one / sum(similar) for one in similar]


def loops(student: Tensor, teacher: Tensor) -> Tensor:
    total = student.new_zeros(())
    for i in range(len(student)):
        for p, q in zip(distribution(teacher, i), distribution(student, i), strict=True):
            total = total + p * math.log(p + 1e-7) - p * (q + 1e-7).log()
    return total / len(student) ** 2


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_equals_loops(rows: int, d_s: int, d_t: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, d_s, generator=random, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(rows, d_t, generator=random, dtype=torch.float64)
    ours, theirs = probabilistic_transfer(student, teacher, student, teacher), loops(student, teacher)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (ours, theirs)), atol=1e-9, rtol=1e-8)


def test_float32() -> None:
    student, teacher = torch.rand(4, 3), torch.rand(4, 5)
    torch.testing.assert_close(probabilistic_transfer(student, teacher, student, teacher), loops(student, teacher))


def test_zero_at_the_teacher_and_at_a_multiple_of_it() -> None:
    teacher = torch.randn(6, 4, dtype=torch.float64)
    assert probabilistic_transfer(teacher, teacher, teacher, teacher).item() == 0.0
    student = 7.0 * teacher
    assert probabilistic_transfer(student, teacher, student, teacher).item() == pytest.approx(0.0, abs=1e-14)


def test_the_mean_is_over_all_entries_and_the_weight_is_for_that() -> None:
    """Twice the batch, each sample twice: the divergence per row stays, its mean over entries halves."""
    student, teacher = torch.randn(2, 5, 3, dtype=torch.float64)
    once = probabilistic_transfer(student, teacher, student, teacher)
    student, teacher = student.repeat(2, 1), teacher.repeat(2, 1)
    twice = probabilistic_transfer(student, teacher, student, teacher)
    assert twice.item() == pytest.approx(once.item() / 2, rel=1e-4)
    setup = make_setup()
    assert make_case(setup).run(build({"type": "pkt"}, setup)).weights == {"one": 30000.0}


def test_it_reads_the_pooled_vectors() -> None:
    setup = make_setup()
    case = make_case(setup, 5)
    expected = loops(case.student_pooled, case.teacher_pooled).detach()
    torch.testing.assert_close(case.run(build({"type": "pkt"}, setup)).parts["one"], expected)
