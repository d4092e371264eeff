from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdray.errors import ConfigError
from kdray.objectives import parse, rkd
from kdray.objectives.rkd import Geometry, angle_loss, distance_loss

from .cases import build, make_case, make_setup


def smooth_l1(x: Tensor) -> Tensor:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def distances(x: Tensor) -> list[list[Tensor]]:
    rows = range(len(x))
    plain = [[(x[i] - x[j]).square().sum().sqrt() if i != j else x.new_zeros(()) for j in rows] for i in rows]
    positive = [one for row in plain for one in row if one > 0]
    mean = sum(positive) / len(positive)
    return [[one / mean for one in row] for row in plain]


def distance_loops(student: Tensor, teacher: Tensor) -> Tensor:
    pairs = zip(distances(student), distances(teacher), strict=True)
    entries = [smooth_l1(s - t) for row_s, row_t in pairs for s, t in zip(row_s, row_t, strict=True)]
    return sum(entries) / len(entries)


def cosine(x: Tensor, i: int, j: int, k: int) -> Tensor:
    if i in (j, k):
        return x.new_zeros(())
    a, b = x[j] - x[i], x[k] - x[i]
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def angle_loops(student: Tensor, teacher: Tensor) -> Tensor:
    rows = range(len(student))
    total = sum(
        smooth_l1(cosine(student, i, j, k) - cosine(teacher, i, j, k)) for i in rows for j in rows for k in rows
    )
    return total / len(student) ** 3


def both(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    own = slice(0, len(student))
    s, t = Geometry.of(student), Geometry.of(teacher)
    return distance_loss(s, t, own), angle_loss(s, t, own)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_equals_loops(rows: int, d_s: int, d_t: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, d_s, generator=random, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(rows, d_t, generator=random, dtype=torch.float64)
    expected = distance_loops(student, teacher), angle_loops(student, teacher)
    for ours, theirs in zip(both(student, teacher), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-8)
        gradients = [torch.autograd.grad(x, student, retain_graph=True)[0] for x in (ours, theirs)]
        torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-6)


def test_float32_with_a_large_common_offset() -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(6, 3, generator=random) + 100.0, torch.randn(6, 5, generator=random)
    expected = distance_loops(student.double(), teacher.double()), angle_loops(student.double(), teacher.double())
    for ours, theirs in zip(both(student, teacher), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-4)


def test_zero_at_the_teacher_turned_scaled_and_moved() -> None:
    teacher = torch.randn(6, 4, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    for value in both(3.0 * teacher @ turn + 5.0, teacher):
        assert value.item() == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_that_coincide_have_distance_and_gradient_zero(dtype: torch.dtype) -> None:
    """The square root's gradient at 0 is infinite, and 0 * inf would be NaN."""
    random = torch.Generator().manual_seed(0)
    few = torch.rand(3, 4, generator=random).to(dtype)
    student = few[[0, 1, 0, 2, 1, 0]].requires_grad_()
    teacher = torch.rand(6, 4, generator=random).to(dtype)
    geometry = Geometry.of(student)
    assert geometry.distance[0, 2] == geometry.distance[4, 1] == geometry.inverse[5, 0] == 0.0
    for value in both(student, teacher):
        (gradient,) = torch.autograd.grad(value, student, retain_graph=True)
        assert torch.isfinite(value) and torch.isfinite(gradient).all() and gradient.abs().max() < 10
    alone = torch.full((4, 3), 0.7, dtype=dtype, requires_grad=True)
    for value in both(alone, teacher[:4]):
        (gradient,) = torch.autograd.grad(value, alone, retain_graph=True)
        assert torch.equal(gradient, torch.zeros_like(alone))


class Largest(TorchDispatchMode):
    """The most elements that any tensor had which was made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return out


def test_pieces_change_nothing_and_bound_the_memory_of_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 40
    student = torch.randn(rows, 6, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(rows, 5, dtype=torch.float64)
    whole = angle_loss(Geometry.of(student), Geometry.of(teacher), slice(0, rows))
    (expected,) = torch.autograd.grad(whole, student)

    monkeypatch.setattr(rkd, "PIECE", 3 * rows**2)  # pieces of three vertices, and a last one of one
    kept: dict[int, Tensor] = {}  # by address: pieces save the same matrices

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with Largest() as largest:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            value = angle_loss(Geometry.of(student), Geometry.of(teacher), slice(0, rows))
        (got,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, whole)
    torch.testing.assert_close(got, expected)
    assert largest.elements <= 3 * rows**2 < rows**3
    assert sum(x.numel() for x in kept.values()) < 20 * rows**2  # between the passes: [n, n] only, no [n, n, n]


def test_a_vertex_whose_angles_exceed_a_piece_is_taken_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = torch.randn(2, 5, 3, dtype=torch.float64)
    whole = both(student, teacher)[1]
    monkeypatch.setattr(rkd, "PIECE", 7)
    torch.testing.assert_close(both(student, teacher)[1], whole)


def test_parts_weights_and_what_they_read() -> None:
    setup = make_setup()
    case = make_case(setup, 5)
    report = case.run(build({"type": "rkd"}, setup))
    assert report.weights == {"one.distance": 25.0, "one.angle": 50.0}
    distance, angle = (f(case.student_pooled, case.teacher_pooled) for f in (distance_loops, angle_loops))
    torch.testing.assert_close(report.parts, {"one.distance": distance.detach(), "one.angle": angle.detach()})
    torch.testing.assert_close(report.total, 25 * distance + 50 * angle)
    without = case.run(build({"type": "rkd", "angle": 0}, setup))
    assert set(without.parts) == {"one.distance"} and without.weights["one.angle"] == 0.0


def test_a_loss_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.rkd: distance and angle are both 0"):
        parse({"rkd": {"distance": 0, "angle": 0}})


def test_hand_value_of_an_angle() -> None:
    """Teacher: a right angle at the origin; student: 60 degrees. One vertex of a flat triangle is enough."""
    right = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    even = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]], dtype=torch.float64)
    # Two angles each at (60, 90), (60, 45), (60, 45) degrees, in both orders of their sides.
    each = [0.5 * (0.5 - c) ** 2 for c in (0.0, math.sqrt(0.5), math.sqrt(0.5))]
    assert both(even, right)[1].item() == pytest.approx(2 * sum(each) / 27)
