from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kdray.objectives import ObjectiveSet, bank_bytes, parse
from kdray.objectives.clmkd.class_guided import ClassGuided
from kdray.objectives.draws import row_keys

from .cases import STEP, Case, build, make_case, make_setup

MEMORY = {"type": "clmkd.class_guided", "mode": "memory", "dim": 7, "positives": 4, "negatives": 6}
INBATCH = {"type": "clmkd.class_guided", "mode": "inbatch", "dim": 7}


def member(objectives: ObjectiveSet) -> ClassGuided:
    (one,) = objectives.members.values()
    assert isinstance(one, ClassGuided)
    return one


def embed(head: torch.nn.Linear, pooled: Tensor) -> Tensor:
    z = pooled @ head.weight.to(pooled.dtype).T + head.bias.to(pooled.dtype)
    return z / z.norm(dim=1, keepdim=True)


def inbatch_loops(u: Tensor, v: Tensor, labels: list[int], tau: float) -> Tensor:
    rows, labels = torch.cat([u, v]), labels * 2
    total = rows.new_zeros(())
    for a in range(len(rows)):
        others = [q for q in range(len(rows)) if q != a]
        positives = [p for p in others if labels[p] == labels[a]]
        bottom = sum(((rows[a] @ rows[q] / tau).exp() for q in others), start=rows.new_zeros(()))
        for p in positives:
            total = total - ((rows[a] @ rows[p] / tau).exp() / bottom).log() / len(positives)
    return total / len(rows)


def memory_loops(
    a: Tensor,
    bank: Tensor,
    z: float,
    positives: list[list[int]],
    negatives: list[list[int]],
    k: int,
    n: int,
    tau: float,
) -> Tensor:
    total = a.new_zeros(())
    noise, eps = k / n, 1e-7
    for i in range(len(a)):
        for p in positives[i]:
            q = (a[i] @ bank[p] / tau).exp() / z
            total = total - (q / (q + noise + eps)).log() / len(positives[i])
        for m in negatives[i]:
            q = (a[i] @ bank[m] / tau).exp() / z
            total = total - (noise / (q + noise + eps)).log()
    return total / len(a)


def drawn(one: ClassGuided, case: Case) -> tuple[list[list[int]], list[list[int]]]:
    targets, options, where = case.targets, one.options, {"seed": STEP.seed, "step": STEP.step}
    keys = row_keys(targets.index, targets.views)
    positives, filled = one.sampler.positives(targets.row_index, targets.row_labels, keys, options.positives, **where)
    negatives, exist = one.sampler.negatives(targets.row_labels, keys, options.negatives, **where)
    return (
        [row[mask].tolist() for row, mask in zip(positives, filled, strict=True)],
        [row.tolist() if e else [] for row, e in zip(negatives, exist, strict=True)],
    )


def gradients(value: Tensor, case: Case, objectives: ObjectiveSet) -> list[Tensor]:
    return list(torch.autograd.grad(value, [case.student_pooled, *objectives.parameters()], retain_graph=True))


@pytest.mark.parametrize("rows,views", [(1, 1), (2, 1), (7, 1), (3, 2)])
@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_inbatch_equals_loops(rows: int, views: int, tau: float) -> None:
    setup = make_setup(classes=3, samples=20, views=views)
    case, objectives = make_case(setup, rows), build({**INBATCH, "temperature": tau}, setup)
    one = member(objectives)
    u, v = embed(one.embed_student, case.student_pooled), embed(one.embed_teacher, case.teacher_pooled.detach())
    ours, theirs = case.part(objectives), inbatch_loops(u, v, case.targets.row_labels.tolist(), tau)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, case, objectives), gradients(theirs, case, objectives))


def test_inbatch_equals_loops_in_float32() -> None:
    setup = make_setup(classes=3, samples=20)
    case, objectives = make_case(setup, 6, dtype=torch.float32), build(INBATCH, setup, torch.float32)
    one = member(objectives)
    u, v = embed(one.embed_student, case.student_pooled), embed(one.embed_teacher, case.teacher_pooled.detach())
    torch.testing.assert_close(case.part(objectives), inbatch_loops(u, v, case.targets.labels.tolist(), 0.07))


def test_inbatch_floor_of_a_single_class_where_all_rows_coincide() -> None:
    setup = make_setup(labels=np.zeros(10, dtype=np.int64), d_s=6, d_t=6)
    case, objectives = make_case(setup, 4), build(INBATCH, setup)
    case.student.pooled = case.student_pooled[:1].expand(4, -1)
    case.teacher.pooled = case.student.pooled
    member(objectives).embed_teacher.load_state_dict(member(objectives).embed_student.state_dict())
    assert case.part(objectives).item() == pytest.approx(math.log(7))


@pytest.mark.parametrize("rows,views,positives,negatives", [(1, 1, 1, 1), (5, 1, 4, 6), (8, 1, 30, 9), (3, 2, 4, 6)])
@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_memory_equals_loops(rows: int, views: int, positives: int, negatives: int, tau: float) -> None:
    """In value, in gradient, on the first batch and on the next; 30 positives are more than a class has."""
    setup = make_setup(classes=3, samples=30, views=views)
    params = {**MEMORY, "positives": positives, "negatives": negatives, "temperature": tau}
    objectives = build(params, setup)
    one, z = member(objectives), None
    for seed in (0, 1):
        case = make_case(setup, rows, seed=seed)
        u, v = embed(one.embed_student, case.student_pooled), embed(one.embed_teacher, case.teacher_pooled.detach())
        banks = [bank.vectors.clone() for bank in (one.bank_teacher, one.bank_student)]
        pos, neg = drawn(one, case)
        if z is None:
            used = [p + m for p, m in zip(pos, neg, strict=True)]
            z = [
                30 * np.mean([math.exp(float(a[i].detach() @ bank[j]) / tau) for i in range(len(a)) for j in used[i]])
                for a, bank in zip((u, v), banks, strict=True)
            ]
        ours = case.part(objectives)
        theirs = memory_loops(u, banks[0], z[0], pos, neg, negatives, 30, tau)
        theirs = theirs + memory_loops(v, banks[1], z[1], pos, neg, negatives, 30, tau)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(gradients(ours, case, objectives), gradients(theirs, case, objectives))


def test_memory_equals_loops_in_float32() -> None:
    setup = make_setup(classes=3, samples=30)
    case, objectives = make_case(setup, 6, dtype=torch.float32), build(MEMORY, setup, torch.float32)
    one = member(objectives)
    one.log_z.copy_(torch.tensor([4.0, 5.0]))
    one.z_known = True
    u, v = embed(one.embed_student, case.student_pooled), embed(one.embed_teacher, case.teacher_pooled.detach())
    pos, neg = drawn(one, case)
    theirs = memory_loops(u, one.bank_teacher.vectors.clone(), math.exp(4), pos, neg, 6, 30, 0.07)
    theirs = theirs + memory_loops(v, one.bank_student.vectors.clone(), math.exp(5), pos, neg, 6, 30, 0.07)
    torch.testing.assert_close(case.part(objectives), theirs)


def test_banks_follow_the_batch_after_the_loss() -> None:
    setup = make_setup()
    case, objectives = make_case(setup, 6), build({**MEMORY, "momentum": 0.3}, setup)
    one = member(objectives)
    before = one.bank_student.vectors.clone(), one.bank_teacher.vectors.clone()
    case.part(objectives)
    u, v = embed(one.embed_student, case.student_pooled), embed(one.embed_teacher, case.teacher_pooled)
    for old, bank, rows in zip(before, (one.bank_student, one.bank_teacher), (u, v), strict=True):
        expected = old.clone()
        for row, i in zip(rows.detach(), case.targets.index.tolist(), strict=True):
            mixed = 0.3 * old[i] + 0.7 * row
            expected[i] = mixed / mixed.norm()
        torch.testing.assert_close(bank.vectors, expected)


@pytest.mark.parametrize("negatives,expected", [(16384, 21.4), (4096, 18.6)])
@pytest.mark.parametrize("temperature", [0.07, 10.0])
def test_value_at_the_start_is_that_of_crd(negatives: int, expected: float, temperature: float) -> None:
    """2 (ln(1 + K) + 1) where all scores are alike (reference A3.1), at CIFAR-100's size.

    Random directions are not quite alike at tau = 0.07: their scores have variance 1/(d tau^2), and the mean of a
    logarithm falls short of the logarithm of the mean by half of it, per direction.
    """
    labels = np.random.default_rng(0).integers(0, 100, 50_000)
    setup = make_setup(classes=100, d_s=64, d_t=64, labels=labels)
    params = {"type": "clmkd.class_guided", "negatives": negatives, "temperature": temperature}
    case = make_case(setup, 64, dtype=torch.float32)
    with torch.no_grad():  # zero-mean features: after a ReLU all embeddings would lean to one side
        case.student.pooled, case.teacher.pooled = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    value = case.part(build(params, setup, torch.float32)).item()
    assert value == pytest.approx(expected + 1 / (128 * temperature**2), abs=0.1)
    assert value == pytest.approx(2 * (math.log(1 + negatives) + 1) + 1 / (128 * temperature**2), abs=0.06)


def test_z_is_fixed_by_the_first_batch_and_survives_a_checkpoint() -> None:
    setup = make_setup()
    objectives = build(MEMORY, setup)
    assert member(objectives).log_z.isnan().all()
    make_case(setup, 6, seed=1).part(objectives)
    first = member(objectives).log_z.clone()
    make_case(setup, 6, seed=2).part(objectives)
    resumed = build(MEMORY, setup)
    resumed.load_state_dict(objectives.state_dict())
    make_case(setup, 6, seed=3).part(resumed)
    assert first.isfinite().all()
    assert torch.equal(first, member(objectives).log_z) and torch.equal(first, member(resumed).log_z)


def test_a_state_from_before_the_first_batch_still_waits_for_one() -> None:
    setup = make_setup()
    resumed = build(MEMORY, setup)
    resumed.load_state_dict(build(MEMORY, setup).state_dict())
    make_case(setup, 6).part(resumed)
    assert member(resumed).log_z.isfinite().all()


def test_draws_depend_on_the_step() -> None:
    setup = make_setup()
    case, objectives = make_case(setup, 6), build(MEMORY, setup)
    state = {name: value.clone() for name, value in objectives.state_dict().items()}
    case.part(objectives)
    state["members.one.log_z"] = member(objectives).log_z.clone()
    values = []
    for step in (3, 3, 4):
        objectives.load_state_dict(state)
        values.append(case.part(objectives, replace(STEP, step=step)).item())
    assert values[0] == values[1] != values[2]


def test_bank_bytes_are_those_of_the_buffers() -> None:
    setup = make_setup()
    objectives = {"a": MEMORY, "b": INBATCH, "c": {"type": "clmkd", "class_guided": {"mode": "memory"}}}
    sizes = bank_bytes(objectives, setup)
    assert set(sizes) == {"a", "c"}
    buffers = member(build(MEMORY, setup, torch.float32)).named_buffers()
    held = sum(
        b.numel() * b.element_size() for name, b in buffers if "bank" in name or name.endswith(("order", "place"))
    )
    assert sizes["a"] == held
    cifar = replace(setup, num_samples=50_000)
    assert bank_bytes({"a": {"type": "clmkd.class_guided"}}, cifar)["a"] == pytest.approx(51.2e6 + 0.8e6)


def test_weight_follows_the_mode() -> None:
    def weights(params: dict) -> float:
        return parse({"x": {"type": "clmkd.class_guided", **params}})[0].options.weight

    assert [weights(p) for p in ({}, {"mode": "inbatch"}, {"mode": "inbatch", "weight": 0.3}, {"weight": None})] == [
        0.8,
        1.0,
        0.3,
        0.8,
    ]
