from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.objectives.nkd import label_term, other_classes

from .cases import build, make_case, make_setup


def softmax(row: torch.Tensor) -> list[torch.Tensor]:
    powers = [x.exp() for x in row]
    return [x / sum(powers) for x in powers]


def loops(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    target, rest = 0 * student.sum(), 0 * student.sum()
    for s, t, y in zip(student, teacher, labels.tolist(), strict=True):
        target = target - softmax(t)[y] * softmax(s)[y].log()
        keep = [c for c in range(len(s)) if c != y]
        for p, q in zip(softmax(t[keep] / temperature), softmax(s[keep] / temperature), strict=True):
            rest = rest - p * q.log()
    return target / len(student), temperature**2 * rest / len(student)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.5, 20), st.integers(0, 1000))
def test_equals_loops(rows: int, classes: int, temperature: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, classes, generator=random, dtype=torch.float64)
    labels = torch.randint(0, classes, (rows,), generator=random)
    student.requires_grad_()
    ours = label_term(student, teacher, labels), other_classes(student, teacher, labels, temperature)
    for one, other in zip(ours, loops(student, teacher, labels, temperature), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-9)
        gradients = [torch.autograd.grad(x, student, retain_graph=True)[0] for x in (one, other)]
        torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-9)


def test_at_the_teacher_the_others_are_at_their_entropy() -> None:
    """A cross-entropy, not a divergence: its least value is the entropy of the teacher's other classes."""
    random = torch.Generator().manual_seed(0)
    teacher = torch.randn(6, 7, generator=random, dtype=torch.float64)
    labels = torch.arange(6)
    floor = torch.stack(
        [
            torch.distributions.Categorical(logits=row[[c for c in range(7) if c != y]] / 3).entropy()
            for y, row in enumerate(teacher)
        ]
    ).mean()
    student = teacher.clone().requires_grad_()
    value = other_classes(student, teacher, labels, 3.0)
    torch.testing.assert_close(value, 9 * floor)
    assert torch.autograd.grad(value, student)[0].abs().max() < 1e-12
    for seed in range(3):
        moved = teacher + torch.randn(6, 7, generator=random.manual_seed(seed), dtype=torch.float64)
        assert other_classes(moved, teacher, labels, 3.0) > value


def test_the_label_of_the_student_does_not_enter_the_others() -> None:
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2])
    raised = student + 50 * torch.eye(5, dtype=torch.float64)[labels]
    torch.testing.assert_close(*(other_classes(s, teacher, labels, 1.0) for s in (student, raised)))


def test_options() -> None:
    setup = make_setup(views=2)
    case = make_case(setup, 5)
    report = case.run(build({"type": "nkd", "gamma": 3.5, "temperature": 3, "weight": 0.5}, setup))
    expected = loops(case.student.logits, case.teacher.logits, case.targets.labels.repeat(2), 3.0)
    assert report.weights == pytest.approx({"one.target": 0.5, "one.others": 1.75})
    torch.testing.assert_close(list(report.parts.values()), [part.detach() for part in expected])
    torch.testing.assert_close(report.total, 0.5 * expected[0] + 1.75 * expected[1])


def test_standardised() -> None:
    setup = make_setup()
    case = make_case(setup)
    report = case.run(build({"type": "nkd", "standardise": True}, setup))
    s, t = ((z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True) for z in (case.student.logits, case.teacher.logits))
    expected = [part.detach() for part in loops(s, t, case.targets.labels, 1.0)]
    torch.testing.assert_close(list(report.parts.values()), expected, atol=1e-6, rtol=1e-5)
