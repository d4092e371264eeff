from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.errors import ConfigError
from kdray.models.outputs import ModelInfo
from kdray.objectives import ObjectiveSet
from kdray.objectives.kd import softened_kl

from .cases import build, make_case, make_setup


def loops(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    total = student.new_zeros(())
    for s, t in zip(student, teacher, strict=True):
        p = (t / temperature).exp() / (t / temperature).exp().sum()
        q = (s / temperature).exp() / (s / temperature).exp().sum()
        for c in range(len(s)):
            total = total + p[c] * (p[c].log() - q[c].log())
    return temperature**2 * total / len(student)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.5, 20), st.integers(0, 1000))
def test_equals_loops(rows: int, classes: int, temperature: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, classes, generator=random, dtype=torch.float64)
    student.requires_grad_()
    ours, theirs = softened_kl(student, teacher, temperature), loops(student, teacher, temperature)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (ours, theirs)), atol=1e-10, rtol=1e-9)


def test_float32() -> None:
    student, teacher = torch.tensor([[1.0, 2.0, -1.0]]), torch.tensor([[0.5, -2.0, 1.0]])
    torch.testing.assert_close(softened_kl(student, teacher, 4.0), loops(student, teacher, 4.0))


def test_zero_at_the_teacher_and_at_a_shift_of_it() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64)
    assert softened_kl(logits, logits, 4.0).item() == 0.0
    assert softened_kl(logits + 3.0, logits, 4.0).item() == pytest.approx(0.0, abs=1e-12)


def test_hand_value() -> None:
    """Teacher certain of one of two classes, student undecided: T^2 ln 2 as the teacher's gap grows."""
    value = softened_kl(torch.zeros(1, 2), torch.tensor([[1e4, -1e4]]), 2.0)
    assert value.item() == pytest.approx(4 * math.log(2))


def test_the_temperature_of_the_config_is_used() -> None:
    setup = make_setup()
    case = make_case(setup)
    parts = [case.run(build({"type": "kd", "temperature": t}, setup)).parts["one"] for t in (2.0, 8.0)]
    expected = [loops(case.student.logits, case.teacher.logits, t).detach() for t in (2.0, 8.0)]
    torch.testing.assert_close(parts, expected)


def test_a_teacher_is_needed_with_a_classifier_over_the_same_classes() -> None:
    setup = make_setup()
    for teacher, said in (
        (None, "needs a teacher"),
        (ModelInfo("moco", num_classes=None, pooled_dim=9, linear_head=False), "moco has no classifier"),
        (ModelInfo("other", num_classes=7, pooled_dim=9), "other has 7 classes, the data 5"),
    ):
        with pytest.raises(ConfigError, match=said):
            ObjectiveSet({"kd": {}}, replace(setup, teacher=teacher))


def test_the_first_view_alone_is_the_first_rows() -> None:
    setup = make_setup(views=3)
    case = make_case(setup, 4)
    part = case.part(build({"type": "kd", "views": "first"}, setup))
    torch.testing.assert_close(part, loops(case.student.logits[:4], case.teacher.logits[:4], 4.0))
    whole = case.part(build({"type": "kd"}, setup))
    torch.testing.assert_close(whole, loops(case.student.logits, case.teacher.logits, 4.0))


def test_standardised_logits_of_both_networks_are_compared() -> None:
    def scores(logits: torch.Tensor) -> torch.Tensor:
        return torch.stack([(row - row.mean()) / (row.std() + 1e-7) for row in logits])

    setup = make_setup()
    case = make_case(setup)
    part = case.part(build({"type": "kd", "standardise": True, "temperature": 2}, setup))
    torch.testing.assert_close(part, loops(scores(case.student.logits), scores(case.teacher.logits), 2.0))


def test_standardised_the_scale_of_the_student_is_free() -> None:
    setup = make_setup()
    case = make_case(setup)
    objectives = build({"type": "kd", "standardise": True}, setup)
    case.student.logits = 0.2 * case.teacher.logits + 3.0
    assert case.part(objectives).item() == pytest.approx(0.0, abs=1e-6)
    case.student.logits = -case.teacher.logits
    assert case.part(objectives).item() > 0.1
