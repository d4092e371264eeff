from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdray.errors import ConfigError
from kdray.objectives import ObjectiveSet, parse
from kdray.objectives.sskd import SSKD, keep_easy

from .cases import STEP, Case, build, make_case, make_setup, mapped

BASE: dict[str, Any] = {"type": "sskd", "head_epochs": 0}


def member(objectives: ObjectiveSet) -> SSKD:
    (one,) = objectives.members.values()
    assert isinstance(one, SSKD)
    return one


def parts(case: Case, one: SSKD) -> dict[str, Tensor]:
    teacher = mapped(case.teacher, Tensor.detach)
    return one(case.targets, case.student, teacher, case.student_head, case.teacher_head, STEP)


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL of one row."""
    p, q = (teacher / temperature).exp(), (student / temperature).exp()
    p, q = p / p.sum(), q / q.sum()
    return temperature**2 * sum((a * (a / b).log() for a, b in zip(p, q, strict=True)), start=p.new_zeros(()))


def kept(scores: list[Tensor], targets: list[int], share: float) -> list[int]:
    """Rows that are right, and the easiest of the wrong ones."""
    ranks = [sum(float(x) > float(row[t]) for x in row) for row, t in zip(scores, targets, strict=True)]
    wrong = [i for i, rank in enumerate(ranks) if rank]
    wrong.sort(key=lambda i: (ranks[i], -float(scores[i].log_softmax(dim=0)[targets[i]])))
    return [i for i, rank in enumerate(ranks) if not rank] + wrong[: int(len(wrong) * share)]


def mlp(one: torch.nn.Module, x: Tensor) -> Tensor:
    x = (one.hidden.weight @ x + one.hidden.bias).relu()
    x = one.out.weight @ x + one.out.bias
    return x / x.norm()


def loops(case: Case, one: SSKD) -> dict[str, Tensor]:
    options, labels, b = one.options, case.targets.labels.tolist(), len(case.targets.labels)
    z, t = case.student.logits, case.teacher.logits.detach()
    values = {
        "ce": sum(-z[i].log_softmax(dim=0)[labels[i]] for i in range(b)) / b,
        "kd": sum(kl(z[i], t[i], options.temperature) for i in range(b)) / b,
    }
    rotated = [(v * b + i, i) for v in range(1, case.targets.views) for i in range(b)]
    rows = kept([t[n] for n, _ in rotated], [labels[i] for _, i in rotated], options.transfer_keep)
    values["transfer"] = sum(kl(z[rotated[r][0]], t[rotated[r][0]], options.temperature) for r in rows) / len(rows)
    theirs, ours = (
        [torch.stack([mlp(head, pooled[n]) @ mlp(head, pooled[j]) for j in range(b)]) for n, _ in rotated]
        for head, pooled in (
            (one.embed_teacher, case.teacher_pooled.detach()),
            (one.embed_student, case.student_pooled),
        )
    )
    own = [i for _, i in rotated]
    values["head"] = sum(-row.log_softmax(dim=0)[i] for row, i in zip(theirs, own, strict=True)) / len(rotated)
    theirs = [row.detach() for row in theirs]
    # Within a rank the similarity itself orders, whose order is not that of the softmax over other columns.
    ranks = [sum(float(x) > float(row[i]) for x in row) for row, i in zip(theirs, own, strict=True)]
    wrong = sorted((r for r, n in enumerate(ranks) if n), key=lambda r: (ranks[r], -float(theirs[r][own[r]])))
    rows = [r for r, n in enumerate(ranks) if not n] + wrong[: int(len(wrong) * options.similarity_keep)]
    tau = options.similarity_temperature
    values["similarity"] = sum(kl(ours[r], theirs[r], tau) for r in rows) / len(rows)
    return values


@pytest.mark.parametrize("rows,views", [(1, 4), (2, 4), (6, 4), (3, 5)])
@pytest.mark.parametrize("keep", [{}, {"transfer_keep": 0.3, "similarity_keep": 0.4, "similarity_temperature": 0.1}])
def test_equals_loops(rows: int, views: int, keep: dict[str, float]) -> None:
    setup = make_setup(classes=3, samples=20, views=views)
    case, objectives = make_case(setup, rows), build({**BASE, **keep}, setup)
    ours, theirs = parts(case, member(objectives)), loops(case, member(objectives))
    assert set(ours) == set(theirs)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
    leaves = [case.student_pooled, *objectives.parameters()]
    torch.testing.assert_close(
        *(torch.autograd.grad(sum(x.values()), leaves, retain_graph=True) for x in (ours, theirs))
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.floats(0, 1))
def test_hard_rows_are_dropped_and_no_right_one(ranks: list[int], share: float) -> None:
    rank, confidence = torch.tensor(ranks), torch.rand(len(ranks), generator=torch.Generator().manual_seed(0)).double()
    keep = keep_easy(rank, confidence, share)
    wrong = [i for i, r in enumerate(ranks) if r]
    assert all(keep[i] for i, r in enumerate(ranks) if not r)
    assert int(keep[wrong].sum()) == pytest.approx(len(wrong) * share, abs=1)
    for i in wrong:
        for j in wrong:
            if keep[j] and not keep[i]:
                assert (rank[i], -confidence[i]) > (rank[j], -confidence[j])


def test_a_share_of_the_published_size_is_exact() -> None:
    rank = torch.tensor([0, 2, 1, 3, 1])
    keep = keep_easy(rank, torch.tensor([0.1, 0.2, 0.3, 0.9, 0.4]), 0.75)
    assert keep.tolist() == [True, True, True, False, True]


def test_student_equal_to_teacher_leaves_only_what_labels_ask() -> None:
    setup = make_setup(d_s=6, d_t=6, views=4)
    case, objectives = make_case(setup, 6), build(BASE, setup)
    one = member(objectives)
    one.embed_student.load_state_dict(one.embed_teacher.state_dict())
    case.student = mapped(case.teacher, lambda x: x)
    values = parts(case, one)
    for name in ("kd", "transfer", "similarity"):
        assert values[name].item() == pytest.approx(0.0, abs=1e-12)
    assert values["ce"] > 0 and values["head"] > 0


def test_similarities_wait_for_the_teachers_head() -> None:
    setup = make_setup(views=4)
    case, objectives = make_case(setup, 6), build({"type": "sskd", "head_epochs": 2}, setup)
    before, after = (case.run(objectives, replace(STEP, epoch=epoch)) for epoch in (1.9, 2.0))
    assert set(before.parts) == {"one.ce", "one.kd", "one.transfer", "one.head"}
    assert before.weights["one.similarity"] == 0.0 and after.weights["one.similarity"] == 10.0
    assert set(after.parts) == {*before.parts, "one.similarity"}
    before.total.backward()
    one = member(objectives)
    assert all(p.grad is not None and not p.grad.any() for p in one.embed_student.parameters())
    assert all(p.grad is not None and p.grad.any() for p in one.embed_teacher.parameters())


def test_the_head_trains_a_fifth_of_the_run_unless_told_otherwise() -> None:
    setup = make_setup(views=4)
    one = member(build({"type": "sskd"}, setup))
    steps = [replace(STEP, epoch=epoch, epochs=300) for epoch in (59.9, 60.0)]
    assert [one.part_weights(step)["similarity"] for step in steps] == [0.0, 10.0]


def test_similarities_move_the_students_head_and_never_the_teachers() -> None:
    setup = make_setup(views=4)
    case, objectives = make_case(setup, 6), build(BASE, setup)
    one = member(objectives)
    values = parts(case, one)
    theirs = torch.autograd.grad(
        values["similarity"], list(one.embed_teacher.parameters()), retain_graph=True, allow_unused=True
    )
    assert all(gradient is None for gradient in theirs)
    ours = torch.autograd.grad(values["head"], [case.student_pooled], retain_graph=True, allow_unused=True)
    assert ours[0] is None


def test_weights_are_those_of_the_released_code() -> None:
    (entry,) = parse({"sskd": {}})
    o = entry.options
    assert isinstance(o, SSKD.config)
    assert (o.ce, o.kd, o.transfer, o.similarity) == (0.1, 0.9, 2.7, 10.0)
    assert (o.temperature, o.similarity_temperature, o.transfer_keep, o.similarity_keep) == (4.0, 0.5, 1.0, 0.75)


def test_without_similarities_there_are_no_heads() -> None:
    setup = make_setup(views=4)
    case, objectives = make_case(setup, 6), build({"type": "sskd", "similarity": 0}, setup)
    assert list(objectives.parameters()) == []
    assert set(case.run(objectives).parts) == {"one.ce", "one.kd", "one.transfer"}


def test_it_needs_four_views() -> None:
    with pytest.raises(ConfigError, match=r"it needs 4 views of every image, and data.views is 2"):
        build(BASE, make_setup(views=2))
