from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdray.errors import ConfigError
from kdray.models.outputs import ModelInfo
from kdray.objectives import ObjectiveSet
from kdray.objectives.at import attention_transfer

from .cases import build, make_case, make_setup, mapped


def loops(student: Tensor, teacher: Tensor, p: float) -> Tensor:
    """At equal sizes: every place and channel by itself."""

    def vector(maps: Tensor) -> list[Tensor]:
        channels, height, width = maps.shape
        q = [
            sum((maps[c, y, x].abs() ** p for c in range(channels)), maps.new_zeros(())) / channels
            for y in range(height)
            for x in range(width)
        ]
        length = torch.stack([value**2 for value in q]).sum().sqrt()
        return [value / length for value in q]

    total = student.new_zeros(())
    for s, t in zip(student, teacher, strict=True):
        places = [(a - b) ** 2 for a, b in zip(vector(s), vector(t), strict=True)]
        total = total + torch.stack(places).mean()
    return total / len(student)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(2, 3),
    st.sampled_from([1.0, 2.0, 2.5, 4.0]), st.integers(0, 99),
)  # fmt: skip
def test_equals_loops(rows: int, c_s: int, c_t: int, height: int, width: int, p: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, c_s, height, width, generator=random, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(rows, c_t, height, width, generator=random, dtype=torch.float64)
    ours, theirs = attention_transfer(student, teacher, p), loops(student, teacher, p)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (ours, theirs)))


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_the_larger_map_is_pooled(larger: str) -> None:
    big, small = torch.rand(2, 3, 4, 6, dtype=torch.float64), torch.rand(2, 5, 2, 3, dtype=torch.float64)
    pooled = big.reshape(2, 3, 2, 2, 3, 2).mean(dim=(3, 5))
    if larger == "student":
        torch.testing.assert_close(attention_transfer(big, small, 2), loops(pooled, small, 2))
    else:
        torch.testing.assert_close(attention_transfer(small, big, 2), loops(small, pooled, 2))


def test_sum_over_the_chosen_stages() -> None:
    setup = make_setup()
    case = make_case(setup)
    s, t = case.student.stages, case.teacher.stages
    each = [loops(a, b, 2).detach() for a, b in zip(s, t, strict=True)]
    torch.testing.assert_close(case.run(build({"type": "at"}, setup)).parts["one"], sum(each))
    some = build({"type": "at", "stages": [3, 1], "weight": 7}, setup)
    torch.testing.assert_close(case.run(some).parts["one"], each[0] + each[2])
    torch.testing.assert_close(case.run(some).total.detach(), 7 * (each[0] + each[2]))


def test_zero_at_the_teacher_at_its_multiple_and_at_its_negative() -> None:
    maps = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    for student in (maps, 3 * maps, -maps):
        assert attention_transfer(student, maps, 2).item() == pytest.approx(0, abs=1e-30)


def test_hand_value() -> None:
    """All attention on one of two places, against all on the other: two places with a squared distance of 1."""
    one, other = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
    assert attention_transfer(one, other, 2).item() == 1.0
    even = torch.tensor([[[[2.0, 2.0]]]])
    assert attention_transfer(even, other, 2).item() == pytest.approx((0.5 + (1 - math.sqrt(0.5)) ** 2) / 2)


def test_a_dead_map_has_no_gradient() -> None:
    student = torch.zeros(2, 3, 2, 2, requires_grad=True)
    attention_transfer(student, torch.rand(2, 3, 2, 2), 1.0).backward()
    assert student.grad is not None and not student.grad.any()


def test_one_place_is_nothing_to_compare() -> None:
    def info(*shapes: tuple[int, ...]) -> ModelInfo:
        return ModelInfo("flat", num_classes=5, pooled_dim=6, stage_shapes=shapes)

    setup = replace(make_setup(), student=info((4, 8, 8), (6, 1, 1)))
    with pytest.raises(ConfigError, match=r"share only one: flat has 4x8x8, 6x1x1; large has.*\[\[1, 2\]\]"):
        ObjectiveSet({"at": {}}, setup)
    assert ObjectiveSet({"at": {"stages": [[1, 2]]}}, setup).needs.stages
    with pytest.raises(ConfigError, match=r"Use objectives that read vectors"):
        ObjectiveSet({"at": {}}, replace(make_setup(), student=info((6, 1, 1))))


def test_the_teacher_stays_as_it_is() -> None:
    setup = make_setup()
    case = make_case(setup)
    before = mapped(case.teacher, lambda x: x.detach().clone())
    case.run(build({"type": "at"}, setup)).total.backward()
    torch.testing.assert_close([x.detach() for x in case.teacher.stages], before.stages)
