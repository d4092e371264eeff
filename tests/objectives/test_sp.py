from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdray.errors import ConfigError
from kdray.objectives import ObjectiveSet
from kdray.objectives.sp import similarity_preserving

from .cases import build, make_case, make_setup


def loops(student: Tensor, teacher: Tensor) -> Tensor:
    rows = len(student)
    total = student.new_zeros(())
    for i in range(rows):
        g_s = [sum(a * b for a, b in zip(student[i], student[j], strict=True)) for j in range(rows)]
        g_t = [sum(a * b for a, b in zip(teacher[i], teacher[j], strict=True)) for j in range(rows)]
        norm_s, norm_t = (sum(x * x for x in g) ** 0.5 for g in (g_s, g_t))
        for j in range(rows):
            total = total + (g_t[j] / norm_t - g_s[j] / norm_s) ** 2
    return total / rows**2


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_equals_loops(rows: int, d_s: int, d_t: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, d_s, generator=random, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(rows, d_t, generator=random, dtype=torch.float64)
    ours, theirs = similarity_preserving(student, teacher, student, teacher), loops(student, teacher)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (ours, theirs)), atol=1e-9, rtol=1e-8)


def test_float32() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 5)
    torch.testing.assert_close(similarity_preserving(student, teacher, student, teacher), loops(student, teacher))


def test_zero_at_the_teacher_turned_and_scaled() -> None:
    """G sees neither a rotation nor a scale."""
    teacher = torch.randn(6, 4, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    student = 3.0 * teacher @ turn
    assert similarity_preserving(student, teacher, student, teacher).item() == pytest.approx(0.0, abs=1e-14)


def test_it_reads_the_last_map_flattened_and_not_the_pooled_vector() -> None:
    setup = make_setup()
    case = make_case(setup, 5)
    report = case.run(build({"type": "sp"}, setup))
    maps = case.student.stages[-1].flatten(1), case.teacher.stages[-1].flatten(1)
    torch.testing.assert_close(report.parts["one"], loops(*maps).detach())
    assert report.weights == {"one": 3000.0}


def test_a_network_without_maps_is_refused() -> None:
    setup = make_setup()
    bare = replace(setup, student=replace(setup.student, stage_shapes=()))
    with pytest.raises(ConfigError, match=r"objectives\.sp: small hands out no feature map"):
        ObjectiveSet({"sp": {}}, bare)
