from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.objectives.dkd import decoupled_kl, others, target_share

from .cases import STEP, build, make_case, make_setup


def softmax(row: torch.Tensor, temperature: float) -> list[torch.Tensor]:
    powers = [(x / temperature).exp() for x in row]
    return [x / sum(powers) for x in powers]


def loops(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    target, rest = 0 * student.sum(), 0 * student.sum()
    for s, t, y in zip(student, teacher, labels.tolist(), strict=True):
        q, p = softmax(s, temperature), softmax(t, temperature)
        q_rest = sum((x for c, x in enumerate(q) if c != y), start=s.new_zeros(()))
        p_rest = sum((x for c, x in enumerate(p) if c != y), start=s.new_zeros(()))
        target = target + p[y] * (p[y].log() - q[y].log())
        if len(s) > 1:
            target = target + p_rest * (p_rest.log() - q_rest.log())
        for c in range(len(s)):
            if c != y:
                a, b = p[c] / p_rest, q[c] / q_rest
                rest = rest + a * (a.log() - b.log())
    return temperature**2 * target / len(student), temperature**2 * rest / len(student)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.5, 20), st.integers(0, 1000))
def test_equals_loops(rows: int, classes: int, temperature: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, classes, generator=random, dtype=torch.float64)
    labels = torch.randint(0, classes, (rows,), generator=random)
    student.requires_grad_()
    ours, theirs = decoupled_kl(student, teacher, labels, temperature), loops(student, teacher, labels, temperature)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-9)
        gradients = [torch.autograd.grad(x, student, retain_graph=True)[0] for x in (one, other)]
        torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-9)


def test_the_two_parts_add_up_to_kd() -> None:
    """KD = TCKD + (1 - p_label of the teacher) NCKD, row by row: the identity that the method is named after."""
    random = torch.Generator().manual_seed(0)
    for _ in range(5):
        student, teacher = torch.randn(2, 1, 7, generator=random, dtype=torch.float64)
        labels = torch.randint(0, 7, (1,), generator=random)
        target, rest = decoupled_kl(student, teacher, labels, 4.0)
        p = (teacher / 4).softmax(dim=1)[0, labels[0]]
        kd = 16 * torch.nn.functional.kl_div((student / 4).log_softmax(1), (teacher / 4).softmax(1), reduction="sum")
        torch.testing.assert_close(target + (1 - p) * rest, kd)


def test_zero_at_the_teacher() -> None:
    logits, labels = torch.randn(5, 7, dtype=torch.float64), torch.arange(5)
    assert [part.item() for part in decoupled_kl(logits, logits, labels, 4.0)] == [0.0, 0.0]


def test_two_classes_leave_nothing_to_the_others() -> None:
    student, teacher = torch.randn(2, 4, 2).requires_grad_()
    _, rest = decoupled_kl(student, teacher.detach(), torch.tensor([0, 1, 0, 1]), 4.0)
    assert rest.item() == 0.0 and not torch.autograd.grad(rest, student)[0].any()


@pytest.mark.parametrize("scale", [40.0, 1e3, 1e4])
def test_a_certain_network_has_a_finite_share(scale: float) -> None:
    """p rounds to 1: log(1 - p) would be -inf, and its gradient NaN."""
    student = torch.tensor([[scale, 0.0, -scale]], requires_grad=True)
    teacher, labels = torch.tensor([[-scale, 0.0, scale]]), torch.tensor([0])
    share = target_share(student, labels)[0]
    torch.testing.assert_close(share, torch.tensor([0.0, -scale]))
    target, rest = decoupled_kl(student, teacher, labels, 1.0)
    (gradient,) = torch.autograd.grad(target + rest, student)
    assert target.item() == pytest.approx(scale, rel=1e-5) and rest.item() == pytest.approx(scale, rel=1e-5)
    assert torch.isfinite(gradient).all()


def test_the_label_is_out_of_the_others_whatever_the_logits() -> None:
    logits, labels = torch.tensor([[3000.0, 1.0, 1.0], [-3000.0, 1.0, 1.0]]), torch.tensor([0, 0])
    probabilities = others(logits, labels).exp()
    torch.testing.assert_close(probabilities, torch.tensor([[0.0, 0.5, 0.5]] * 2))


def test_options_and_the_published_warm_up() -> None:
    setup = make_setup(views=2)
    case = make_case(setup, 5)
    params = {"type": "dkd", "alpha": 0.5, "beta": 3, "temperature": 2, "weight": 0.7}
    report = case.run(build(params, setup), replace(STEP, epoch=5.0, epochs=240))
    expected = loops(case.student.logits, case.teacher.logits, case.targets.labels.repeat(2), 2.0)
    assert report.weights == pytest.approx({"one.target": 0.7 * 0.5 / 4, "one.others": 0.7 * 3 / 4})
    torch.testing.assert_close(list(report.parts.values()), [part.detach() for part in expected])
    torch.testing.assert_close(report.total, sum(report.weights[k] * v for k, v in report.parts.items()))
    assert case.run(build(params, setup), replace(STEP, epoch=20.0, epochs=240)).weights["one.others"] == 0.7 * 3


def test_standardised() -> None:
    setup = make_setup()
    case = make_case(setup)
    report = case.run(build({"type": "dkd", "standardise": True}, setup))
    s, t = ((z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True) for z in (case.student.logits, case.teacher.logits))
    expected = [part.detach() for part in loops(s, t, case.targets.labels, 4.0)]
    torch.testing.assert_close(list(report.parts.values()), expected, atol=1e-6, rtol=1e-5)
    plain = loops(case.student.logits, case.teacher.logits, case.targets.labels, 4.0)[0]
    assert not torch.isclose(expected[0], plain.detach())
