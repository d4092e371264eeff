from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdray.errors import ConfigError
from kdray.objectives import ObjectiveSet, needs
from kdray.objectives.supcon import SupCon

from .cases import STEP, build, make_case, make_setup

ALONE: dict[str, Any] = {"type": "supcon", "with_teacher": False, "dim": 7}
JOINT: dict[str, Any] = {"type": "supcon", "dim": 7}
CROSS: dict[str, Any] = {"type": "supcon", "pairs": "cross", "dim": 7}


def member(objectives: ObjectiveSet) -> SupCon:
    (one,) = objectives.members.values()
    assert isinstance(one, SupCon)
    return one


def loops(anchors: list[tuple[Tensor, int, int]], candidates: list[tuple[Tensor, int, int]], tau: float) -> Tensor:
    """Eq. 2 over (vector, label, name); a candidate of the anchor's name is the anchor itself."""
    total = anchors[0][0].new_zeros(())
    for vector, label, name in anchors:
        others = [(other, its) for other, its, whose in candidates if whose != name]
        bottom = sum(((vector @ other / tau).exp() for other, _ in others), start=vector.new_zeros(()))
        positives = [other for other, its in others if its == label]
        for other in positives:
            total = total - ((vector @ other / tau).exp() / bottom).log() / len(positives)
    return total / len(anchors)


def named(rows: Tensor, labels: list[int], first: int) -> list[tuple[Tensor, int, int]]:
    return [(row, label, first + i) for i, (row, label) in enumerate(zip(rows, labels, strict=True))]


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([ALONE, JOINT, CROSS]),
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from(["mlp", "linear"]),
    st.sampled_from([0.07, 0.5]),
)
def test_equals_loops(params: dict[str, Any], rows: int, views: int, head: str, tau: float) -> None:
    views = max(views, 1 if params.get("with_teacher", True) else 2)
    setup = make_setup(classes=3, samples=20, views=views)
    case, objectives = make_case(setup, rows), build({**params, "head": head, "temperature": tau}, setup)
    one, labels = member(objectives), case.targets.row_labels.tolist()
    u = named(one.embed_student(case.student_pooled), labels, 0)
    if params is ALONE:
        theirs = loops(u, u, tau)
    else:
        v = named(one.embed_teacher(case.teacher_pooled.detach()), labels, len(u))
        theirs = loops(u + v, u + v, tau) if params is JOINT else loops(u, v, tau)
    ours = case.part(objectives)
    torch.testing.assert_close(ours, theirs)
    leaves = [case.student_pooled, *objectives.parameters()]
    torch.testing.assert_close(*(torch.autograd.grad(x, leaves, retain_graph=True) for x in (ours, theirs)))


@pytest.mark.parametrize("params,floor", [(ALONE, 7), (JOINT, 15), (CROSS, 8)], ids=str)
def test_floor_of_a_single_class_where_all_rows_coincide(params: dict[str, Any], floor: int) -> None:
    """ln of the number of others: nothing can be closer than everything."""
    setup = make_setup(labels=torch.zeros(10, dtype=torch.int64).numpy(), d_s=6, d_t=6, views=2)
    case, objectives = make_case(setup, 4), build(params, setup)
    case.student.pooled = case.teacher.pooled = case.student_pooled[:1].expand(8, -1)
    if params is not ALONE:
        member(objectives).embed_teacher.load_state_dict(member(objectives).embed_student.state_dict())
    assert case.part(objectives).item() == pytest.approx(math.log(floor))


def test_alone_it_needs_two_views_and_no_teacher() -> None:
    assert needs({"one": ALONE}).min_views == 2 and not needs({"one": ALONE}).teacher
    with pytest.raises(ConfigError, match=r"objectives\.one: it needs 2 views"):
        build(ALONE, make_setup())
    setup = make_setup(views=2)
    case, objectives = make_case(setup, 5), build(ALONE, setup)
    alone = objectives(case.targets, case.student, None, case.student_head, None, STEP)
    torch.testing.assert_close(alone.total, case.run(objectives).total)
    assert not any("teacher" in name for name, _ in objectives.named_parameters())


def test_embeddings_are_unit_vectors() -> None:
    for head in ("mlp", "linear"):
        one = member(build({**JOINT, "head": head}, make_setup()))
        torch.testing.assert_close(one.embed_student(torch.randn(4, 6).double()).norm(dim=1), torch.ones(4).double())
