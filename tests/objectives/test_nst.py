from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdray.errors import ConfigError
from kdray.models.outputs import ModelInfo
from kdray.objectives import ObjectiveSet
from kdray.objectives.nst import squared_mmd

from .cases import build, make_case, make_setup


def loops(student: Tensor, teacher: Tensor, power: int) -> Tensor:
    def vectors(maps: Tensor) -> list[Tensor]:
        return [channel.flatten() / (channel.flatten() ** 2).sum().sqrt() for channel in maps]

    def mean(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return torch.stack([(x * y).sum() ** power for x in a for y in b]).mean()

    rows = []
    for row_s, row_t in zip(student, teacher, strict=True):
        s, t = vectors(row_s), vectors(row_t)
        rows.append(mean(t, t) + mean(s, s) - 2 * mean(s, t))
    return torch.stack(rows).mean()


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(2, 3),
    st.sampled_from([1, 2]), st.integers(0, 99),
)  # fmt: skip
def test_equals_loops(rows: int, c_s: int, c_t: int, height: int, width: int, power: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, c_s, height, width, generator=random, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(rows, c_t, height, width, generator=random, dtype=torch.float64)
    ours, theirs = squared_mmd(student, teacher, power), loops(student, teacher, power)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (ours, theirs)))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(2, 3), st.integers(0, 99))
def test_few_places_and_many_are_one_formula(c_s: int, c_t: int, height: int, width: int, seed: int) -> None:
    """Products of channels, [C, C], and of places, [P, P], to the last digits, whichever of C and P is larger."""
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(2, c_s, height, width, generator=random, dtype=torch.float64)
    teacher = torch.randn(2, c_t, height, width, generator=random, dtype=torch.float64)
    s, t = (torch.nn.functional.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))
    for power in (1, 2):

        def mean(a: Tensor, b: Tensor, power: int = power) -> Tensor:
            return (a @ b.transpose(1, 2)).pow(power).mean()

        expected = mean(t, t) + mean(s, s) - 2 * mean(s, t)
        torch.testing.assert_close(squared_mmd(student, teacher, power), expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize(("channels", "power"), [((64, 96), 2), ((96, 2), 2), ((2, 96), 2), ((64, 96), 1)])
def test_wide_maps_of_few_places_hold_no_products_of_channels(channels: tuple[int, int], power: int) -> None:
    """The largest tensor of forward and backward is the maps', or [P, P]."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for one in out if isinstance(out, tuple | list) else [out]:
                largest = max(largest, one.numel() if isinstance(one, Tensor) else 0)
            return out

    student, teacher = (torch.randn(2, width, 2, 3) for width in channels)
    student.requires_grad_()
    with Watch():
        squared_mmd(student, teacher, power).backward()
    assert largest <= 2 * 6 * max(channels)


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_the_larger_map_is_pooled(larger: str) -> None:
    big, small = torch.rand(2, 3, 4, 6, dtype=torch.float64), torch.rand(2, 5, 2, 3, dtype=torch.float64)
    pooled = big.reshape(2, 3, 2, 2, 3, 2).mean(dim=(3, 5))
    if larger == "student":
        torch.testing.assert_close(squared_mmd(big, small, 2), loops(pooled, small, 2))
    else:
        torch.testing.assert_close(squared_mmd(small, big, 2), loops(small, pooled, 2))


@pytest.mark.parametrize(("kernel", "power"), [("polynomial", 2), ("linear", 1)])
def test_sum_over_the_chosen_stages_with_the_chosen_kernel(kernel: str, power: int) -> None:
    setup = make_setup()
    case = make_case(setup)
    case.student_pooled.data.add_(0.1)
    s, t = case.student.preact, case.teacher.preact  # no dead channel: loops divide by its length
    case.student.stages, case.teacher.stages = s, t
    each = [loops(a, b, power).detach() for a, b in zip(s, t, strict=True)]
    report = case.run(build({"type": "nst", "kernel": kernel}, setup))
    torch.testing.assert_close(report.parts["one"], sum(each))
    torch.testing.assert_close(report.total.detach(), 50 * sum(each))
    report = case.run(build({"type": "nst", "kernel": kernel, "stages": [2]}, setup))
    torch.testing.assert_close(report.parts["one"], each[1])


def test_zero_at_the_teacher_its_multiple_and_its_channels_in_another_order() -> None:
    maps = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    for student in (maps, 3 * maps, -maps, maps[:, [2, 0, 3, 1]], maps.repeat(1, 2, 1, 1)):
        assert squared_mmd(student, maps, 2).item() == pytest.approx(0, abs=1e-14)
    assert squared_mmd(-maps, maps, 1).item() > 0.01


def test_hand_value() -> None:
    """One channel each, at right angles: 1 + 1 - 0."""
    one, other = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
    assert squared_mmd(one, other, 2).item() == 2.0


def test_a_dead_channel_has_no_gradient() -> None:
    student = torch.rand(2, 3, 2, 2)
    student[:, 1] = 0
    student.requires_grad_()
    squared_mmd(student, torch.rand(2, 3, 2, 2), 2).backward()
    assert student.grad is not None and not student.grad[:, 1].any() and student.grad[:, 0].any()


def test_one_place_is_nothing_to_compare() -> None:
    flat = ModelInfo("flat", num_classes=5, pooled_dim=6, stage_shapes=((4, 8, 8), (6, 1, 1)))
    with pytest.raises(ConfigError, match=r"neuron selectivity compares places"):
        ObjectiveSet({"nst": {}}, replace(make_setup(), student=flat))
