from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.objectives.dist import correlation

from .cases import build, make_case, make_setup


def pearson(x: list[torch.Tensor], y: list[torch.Tensor]) -> torch.Tensor:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    product = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    square_x = sum((a - mean_x) ** 2 for a in x)
    square_y = sum((b - mean_y) ** 2 for b in y)
    return product / (square_x**0.5 * square_y**0.5 + 1e-8)


def loops(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    def softmax(logits: torch.Tensor) -> list[list[torch.Tensor]]:
        powers = [[(x / temperature).exp() for x in row] for row in logits]
        return [[x / sum(row) for x in row] for row in powers]

    q, p = softmax(student), softmax(teacher)
    rows, classes = student.shape
    inter = 1 - sum(pearson(q[i], p[i]) for i in range(rows)) / rows
    columns = [[[x[i][c] for i in range(rows)] for c in range(classes)] for x in (q, p)]
    intra = 1 - sum(pearson(columns[0][c], columns[1][c]) for c in range(classes)) / classes
    return temperature**2 * inter, temperature**2 * intra


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 6), st.integers(2, 6), st.floats(0.5, 10), st.integers(0, 1000))
def test_equals_loops(rows: int, classes: int, temperature: float, seed: int) -> None:
    setup = make_setup(classes=classes, labels=torch.arange(rows).remainder(classes).repeat(2).numpy())
    case = make_case(setup, rows, seed=seed)
    report = case.run(build({"type": "dist", "temperature": temperature, "beta": 0.5, "gamma": 2}, setup))
    student = case.student.logits
    inter, intra = loops(student, case.teacher.logits.detach(), temperature)
    assert report.weights == {"one.inter": 1.0, "one.intra": 4.0}
    torch.testing.assert_close(report.total, inter + 4 * intra)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (report.total, inter + 4 * intra)))


def test_float32() -> None:
    x, y = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.5, -2.0, 1.0]])
    torch.testing.assert_close(correlation(x, y)[0], pearson(list(x[0]), list(y[0])))


def test_zero_at_the_teacher_two_at_its_opposite() -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(correlation(x, x), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(correlation(3 * x + 2, x), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(correlation(-x, x), -torch.ones(4, dtype=torch.float64))
    setup = make_setup()
    case = make_case(setup)
    case.student.logits = case.teacher.logits.clone()
    parts = case.run(build({"type": "dist", "temperature": 1}, setup)).parts
    assert [part.item() for part in parts.values()] == pytest.approx([0.0, 0.0], abs=1e-4)  # but for the 1e-8 below


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_constant_correlates_with_nothing_and_gets_no_gradient(dtype: torch.dtype) -> None:
    x = torch.full((3, 64), 0.1, dtype=dtype)
    x[1] = torch.linspace(0, 1, 64, dtype=dtype)
    x.requires_grad_()
    value = correlation(x, torch.linspace(0, 1, 64, dtype=dtype).sin().expand(3, 64))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value[[0, 2]].tolist() == [0.0, 0.0] and value[1] > 0.9
    assert not gradient[[0, 2]].any() and torch.isfinite(gradient).all()


def test_a_single_row_has_no_columns_to_compare() -> None:
    setup = make_setup()
    case = make_case(setup, 1)
    report = case.run(build({"type": "dist", "temperature": 1}, setup))
    assert report.parts["one.intra"].item() == 1.0 and report.parts["one.inter"].item() != 1.0


def test_standardised() -> None:
    setup = make_setup()
    case = make_case(setup)
    report = case.run(build({"type": "dist", "standardise": True, "temperature": 2}, setup))
    s, t = ((z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True) for z in (case.student.logits, case.teacher.logits))
    expected = [part.detach() for part in loops(s, t, 2.0)]
    torch.testing.assert_close(list(report.parts.values()), expected, atol=1e-6, rtol=1e-5)
