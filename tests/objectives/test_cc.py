from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdray.objectives.cc import congruence

from .cases import STEP, build, make_case, make_setup


def loops(difference: Tensor) -> Tensor:
    total = difference.new_zeros(())
    for i in range(len(difference) - 1):
        for k in range(difference.shape[1]):
            total = total + difference[i, k] * difference[i + 1, k]
    return total / (len(difference) - 1)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 7), st.integers(1, 5), st.integers(0, 1000))
def test_equals_loops(rows: int, dim: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    difference = torch.rand(rows, dim, generator=random, dtype=torch.float64).requires_grad_()
    ours, theirs = congruence(difference), loops(difference)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x, difference)[0] for x in (ours, theirs)))


def test_a_single_row_has_no_neighbour() -> None:
    difference = torch.rand(1, 3, requires_grad=True)
    congruence(difference).backward()
    assert congruence(difference).item() == 0.0 and torch.equal(difference.grad, torch.zeros(1, 3))


def test_the_loss_is_that_of_some_order_of_the_embedded_differences() -> None:
    setup = make_setup()
    case, objectives = make_case(setup, 3), build({"type": "cc", "dim": 4}, setup)
    (member,) = objectives.members.values()
    difference = (
        case.student_pooled @ member.embed_student.weight.T
        + member.embed_student.bias
        - case.teacher_pooled @ member.embed_teacher.weight.T
        - member.embed_teacher.bias
    ).abs()
    got = case.run(objectives).parts["one"]
    orders = [(0, 1, 2), (1, 0, 2), (0, 2, 1)]  # which of three stands in the middle
    assert any(torch.isclose(got, loops(difference[list(order)])) for order in orders)


def test_neighbours_change_from_step_to_step_and_with_the_seed() -> None:
    setup = make_setup()
    case, objectives = make_case(setup, 9), build({"type": "cc", "dim": 7}, setup)

    def value(**changes: int) -> float:
        return case.run(objectives, replace(STEP, **changes)).total.item()

    assert value() == value()
    assert len({value(step=step) for step in range(4)}) == 4
    assert value(seed=1) != value(seed=2)


def test_zero_where_both_embeddings_agree_and_both_are_trained() -> None:
    setup = make_setup(d_s=6, d_t=6)
    case, objectives = make_case(setup, 5), build({"type": "cc", "dim": 4}, setup)
    (member,) = objectives.members.values()
    member.embed_teacher.load_state_dict(member.embed_student.state_dict())
    case.student.pooled = case.teacher.pooled
    assert case.run(objectives).total.item() == 0.0
    assert {name for name, _ in objectives.named_parameters()} >= {
        "members.one.embed_student.weight",
        "members.one.embed_teacher.weight",
    }
    assert case.run(objectives).weights == {"one": 0.02}
