from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdray.models.outputs import Outputs
from kdray.objectives import ObjectiveSet
from kdray.objectives.casting import CastOnRead, cast_outputs, compute_dtype

from .cases import STEP, make_case, make_setup, mapped


class Copies(TorchDispatchMode):
    """Counts what is copied into another format, by shape."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default:
            self.shapes[tuple(args[0].shape)] += 1
        return func(*args, **(kwargs or {}))


def maps(count: int = 4, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    return [torch.randn(2, 3 + k, 4, 4, requires_grad=True).to(dtype) for k in range(count)]


def test_it_is_read_as_a_list_is() -> None:
    plain = maps()
    one = CastOnRead(plain, torch.float32)
    assert len(one) == 4 and all(x.dtype == torch.float32 for x in one)
    for index in (0, 3, -1, -4):
        torch.testing.assert_close(one[index], plain[index].float(), atol=0, rtol=0)
        assert one[index] is one[index % 4]
    for part in (slice(None), slice(1, 3), slice(-2, None), slice(None, None, -1), slice(9, None)):
        assert [id(x) for x in one[part]] == [id(x) for x in list(one)[part]]
    assert [x.shape[1] for x in reversed(one)] == [6, 5, 4, 3]
    assert [k for k, _ in enumerate(one)] == [0, 1, 2, 3]
    assert all(a.shape == b.shape for a, b in zip(plain, one, strict=True))
    for outside in (4, -5):
        with pytest.raises(IndexError):
            one[outside]
    assert not CastOnRead([], torch.float32) and list(CastOnRead([], torch.float32)) == []
    assert CastOnRead(plain, torch.float32)[-1].grad_fn is not None
    detached = CastOnRead(plain, torch.bfloat16, detach=True)
    assert not any(x.requires_grad for x in detached) and detached[0] is detached[0]
    assert plain[0].dtype == torch.bfloat16 and plain[0].requires_grad


def test_what_is_not_read_is_not_cast_and_what_is_read_is_cast_once() -> None:
    one = CastOnRead(maps(), torch.float32)
    with Copies() as copies:
        assert len(one) == 4
        assert not copies.shapes
        for _ in range(3):
            one[1], one[-3], one[1:2]
    assert copies.shapes == {(2, 4, 4, 4): 1}


def test_a_first_reader_without_gradient_leaves_the_graph_to_the_next() -> None:
    leaf = torch.randn(2, 3, dtype=torch.bfloat16, requires_grad=True)
    one = CastOnRead([leaf * 1], torch.float32)
    with torch.no_grad():
        assert not (2 * one[0]).requires_grad
    one[0].sum().backward()
    assert leaf.grad is not None and leaf.grad.eq(1).all()


def test_objectives_share_the_stages_they_read_and_leave_the_others() -> None:
    setup = make_setup()
    case = make_case(setup, dtype=torch.float32)
    student, teacher = (mapped(x, lambda y: y.to(torch.bfloat16)) for x in (case.student, case.teacher))
    heads = case.student_head, case.teacher_head
    objectives = ObjectiveSet({"sp": {}, "again": {"type": "sp"}, "at": {"stages": [3]}, "kd": {}}, setup)
    with Copies() as copies:
        report = objectives(case.targets, student, teacher, *heads, STEP)
    assert report.total.dtype == torch.float32
    rows = len(student.pooled)
    read = {(rows, 6, 2, 2): 1, (rows, 9, 2, 2): 1}
    assert {shape: count for shape, count in copies.shapes.items() if len(shape) == 4} == read
    report.total.backward()
    assert case.student_pooled.grad is not None and case.student_pooled.grad.any()
    assert case.teacher_pooled.grad is None


def test_vectors_are_cast_at_once_and_the_given_outputs_stay() -> None:
    given = Outputs(None, torch.randn(2, 3, dtype=torch.bfloat16, requires_grad=True), maps(2), maps(1))
    cast = cast_outputs(given, torch.float64, detach=True)
    assert cast.logits is None and cast.pooled.dtype == torch.float64 and not cast.pooled.requires_grad
    assert (len(cast.stages), len(cast.preact)) == (2, 1) and cast.preact[0].dtype == torch.float64
    assert given.pooled.dtype == torch.bfloat16 and isinstance(given.stages, list)


def test_losses_are_in_float32_or_in_what_is_wider() -> None:
    half, double = torch.zeros(1, 2, dtype=torch.bfloat16), torch.zeros(1, 2, dtype=torch.float64)
    assert compute_dtype(Outputs(None, half), None) == torch.float32
    assert compute_dtype(Outputs(half, half), Outputs(double, half)) == torch.float64
    assert compute_dtype(Outputs(half, double)) == torch.float64
