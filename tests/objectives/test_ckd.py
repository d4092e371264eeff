from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.objectives.ckd import sample_contrast

from .cases import build, make_case, make_setup


def loops(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    total = student.new_zeros(())
    for i, t in enumerate(teacher):
        scores = [(t @ s) / (t @ t).sqrt() / (s @ s).sqrt() / temperature for s in student]
        total = total - (scores[i].exp() / sum(x.exp() for x in scores)).log()
    return total / len(teacher)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(2, 6), st.floats(0.05, 5), st.integers(0, 1000))
def test_equals_loops(rows: int, classes: int, temperature: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, classes, generator=random, dtype=torch.float64)
    student.requires_grad_()
    ours, theirs = sample_contrast(teacher, student, 0, temperature), loops(student, teacher, temperature)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (ours, theirs)))


def test_the_teacher_is_the_anchor_and_the_student_the_candidate() -> None:
    student, teacher = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one, other = loops(student, teacher, 0.2), loops(teacher, student, 0.2)
    assert not torch.isclose(one, other)
    torch.testing.assert_close(sample_contrast(teacher, student, 0, 0.2), one)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_the_floor_of_unit_vectors(temperature: float) -> None:
    """The least value at N rows, log(1 + (N - 1) exp(-(1 + 1/(N - 1)) / T)), is that of a copied simplex."""
    n = 5
    simplex = torch.eye(n, dtype=torch.float64) - 1 / n
    floor = math.log(1 + (n - 1) * math.exp(-(1 + 1 / (n - 1)) / temperature))
    student = simplex.clone().requires_grad_()
    value = sample_contrast(simplex, student, 0, temperature)
    assert value.item() == pytest.approx(floor)
    assert torch.autograd.grad(value, student)[0].abs().max() < 1e-12
    random = torch.Generator().manual_seed(0)
    for _ in range(5):
        assert sample_contrast(simplex, torch.randn(n, n, generator=random).double(), 0, temperature) > floor


def test_scales_of_both_networks_are_free() -> None:
    student, teacher = torch.randn(2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(
        sample_contrast(3 * teacher, 0.1 * student, 0, 0.5), sample_contrast(teacher, student, 0, 0.5)
    )


def test_the_positive_of_a_later_worker_stands_further_on() -> None:
    student, teacher = torch.randn(2, 6, 4, dtype=torch.float64)
    halves = [sample_contrast(teacher[:3], student, 0, 0.5), sample_contrast(teacher[3:], student, 3, 0.5)]
    torch.testing.assert_close(sum(halves) / 2, loops(student, teacher, 0.5))


def test_every_view_is_a_batch_of_its_own() -> None:
    setup = make_setup(views=2)
    case = make_case(setup, 4)
    part = case.part(build({"type": "ckd", "temperature": 0.5}, setup))
    s, t = case.student.logits, case.teacher.logits
    torch.testing.assert_close(part, (loops(s[:4], t[:4], 0.5) + loops(s[4:], t[4:], 0.5)) / 2)


def test_standardised_it_is_the_correlation() -> None:
    setup = make_setup()
    case = make_case(setup)
    part = case.part(build({"type": "ckd", "standardise": True}, setup))
    s, t = (z - z.mean(1, keepdim=True) for z in (case.student.logits, case.teacher.logits))
    torch.testing.assert_close(part, loops(s, t, 1.0))
