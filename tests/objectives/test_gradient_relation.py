from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdray.errors import ConfigError
from kdray.models.outputs import ModelInfo
from kdray.objectives import ObjectiveSet, Targets, bank_bytes
from kdray.objectives.clmkd.gradient_relation import GradientRelation
from kdray.objectives.draws import row_keys
from kdray.objectives.relation import anchor_rows, gradient_direction

from .cases import STEP, Case, build, make_case, make_setup

BASE: dict[str, Any] = {
    "type": "clmkd.gradient_relation",
    "dim": 7,
    "source": "gradient",
    "negatives": "different_class",
}


def member(objectives: ObjectiveSet) -> GradientRelation:
    (one,) = objectives.members.values()
    assert isinstance(one, GradientRelation)
    return one


def norm(x: Tensor) -> Tensor:
    return x / x.norm().clamp_min(1e-8)


def direction(x: Tensor) -> Tensor:
    return x / (x @ x + 1e-4).sqrt()


def represent(source: str, head: Any, projection: Any, pooled: Tensor, logits: Tensor, labels: list[int], options: Any):
    """r_i of reference A4 (2), one row at a time, from the formula as it stands there."""
    rows = []
    for x, z, y in zip(pooled, logits, labels, strict=True):
        if source == "feature":
            g = x
        else:
            residual = (z / options.gradient_temperature).softmax(dim=0)
            target = torch.zeros_like(residual)
            target[y] = 1.0
            residual = residual - target if options.target == "full" else residual * (1 - target)
            g = head.weight.T @ residual
        rows.append(norm(projection.weight.to(pooled.dtype) @ norm(g)))
    return rows


def loops(case: Case, one: GradientRelation) -> Tensor:
    options, labels = one.options, case.targets.row_labels.tolist()
    index = case.targets.row_index.tolist()
    anchors = anchor_rows(row_keys(case.targets.index, case.targets.views), options.anchors, STEP).tolist()
    total, pairs = case.student_pooled.new_zeros(()), 0
    for source in one.sources:
        s = represent(
            source,
            case.student_head,
            one.project_student[source],
            case.student.pooled,
            case.student.logits,
            labels,
            options,
        )
        t = represent(
            source,
            case.teacher_head,
            one.project_teacher[source],
            case.teacher.pooled.detach(),
            case.teacher.logits.detach(),
            labels,
            options,
        )
        t_weight = one.project_teacher[source].weight
        assert t_weight.requires_grad
        directions = [(s, t, f"{source}_teacher")] + ([(t, s, f"{source}_student")] if options.symmetric else [])
        for query, other, bank_name in directions:
            pairs = 0
            if options.mode == "memory":
                drawn, drawn_labels = one.sampler.uniform(options.bank_samples, seed=STEP.seed, step=STEP.step)
                pool = [
                    (one.banks[bank_name].vectors[k].clone(), c, k)
                    for k, c in zip(drawn.tolist(), drawn_labels.tolist(), strict=True)
                ]
            else:
                pool = list(zip(other, labels, range(len(labels)), strict=True))
            names = index if options.mode == "memory" else list(range(len(labels)))
            for i in range(len(labels)):
                for j in anchors:
                    if i == j:
                        continue
                    anchor = other[j].detach()
                    negatives = [
                        vector
                        for vector, label, k in pool
                        if k not in (names[i], names[j]) and (options.negatives == "all" or label != labels[i])
                    ]
                    if not negatives:
                        continue
                    relation = direction(query[i] - anchor)
                    top = (relation @ direction(other[i] - anchor) / options.temperature).exp()
                    bottom = top
                    for vector in negatives:
                        bottom = bottom + (relation @ direction(vector - anchor) / options.temperature).exp()
                    total = total - (top / bottom).log()
                    pairs += 1
    return total / max(pairs, 1)


FORMS: list[dict[str, Any]] = [
    {"anchors": 3},
    {"anchors": 3, "source": "both", "negatives": "all"},
    {"anchors": "batch"},
    {"anchors": 3, "source": "feature"},
    {"anchors": 2, "source": "both", "symmetric": True},
    {"anchors": "batch", "negatives": "all", "gradient_temperature": 4.0, "temperature": 0.5},
    {"anchors": 3, "target": "non_target"},
    {"anchors": 3, "mode": "memory", "bank_samples": 25},
    {"anchors": 3, "mode": "memory", "bank_samples": 25, "negatives": "all", "symmetric": True, "source": "both"},
]


@pytest.mark.parametrize("rows,views", [(2, 1), (6, 1), (3, 2)])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_equals_loops(form: dict[str, Any], rows: int, views: int) -> None:
    setup = make_setup(classes=3, samples=20, views=views)
    case, objectives = make_case(setup, rows), build({**BASE, **form}, setup)
    theirs = loops(case, member(objectives))  # before ours, which moves the banks
    ours = case.part(objectives)
    torch.testing.assert_close(ours, theirs)
    leaves = [case.student_pooled, *objectives.parameters()]
    if rows * views > 2:
        ours_by, theirs_by = (torch.autograd.grad(x, leaves, retain_graph=True) for x in (ours, theirs))
        torch.testing.assert_close(ours_by, theirs_by)


def test_features_and_all_negatives_are_the_default() -> None:
    one = member(build({"type": "clmkd.gradient_relation"}, make_setup()))
    assert (one.options.source, one.options.negatives, one.options.anchors) == ("both", "all", 16)


def test_equals_loops_in_float32() -> None:
    setup = make_setup(classes=3, samples=20)
    case, objectives = make_case(setup, 6, dtype=torch.float32), build(BASE, setup, torch.float32)
    torch.testing.assert_close(case.part(objectives), loops(case, member(objectives)), rtol=1e-4, atol=1e-4)


def test_gradient_is_that_of_the_cross_entropy_of_each_row() -> None:
    head, pooled = torch.nn.Linear(6, 5).double(), torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(8) % 5
    (raw,) = torch.autograd.grad(torch.nn.functional.cross_entropy(head(pooled), labels, reduction="sum"), pooled)
    ours = gradient_direction(head(pooled), labels, head.weight)
    torch.testing.assert_close(ours, raw / raw.norm(dim=1, keepdim=True))


def test_gradient_is_differentiable_as_with_create_graph() -> None:
    head, pooled = torch.nn.Linear(6, 5).double(), torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    labels, weights = torch.arange(8) % 5, torch.randn(8, 6, dtype=torch.float64)
    loss = torch.nn.functional.cross_entropy(head(pooled), labels, reduction="sum")
    (raw,) = torch.autograd.grad(loss, pooled, create_graph=True)
    theirs = (weights * raw / raw.norm(dim=1, keepdim=True)).sum()
    ours = (weights * gradient_direction(head(pooled), labels, head.weight)).sum()
    leaves = [pooled, head.weight, head.bias]
    torch.testing.assert_close(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves))


def test_a_certain_network_keeps_its_direction() -> None:
    """softmax - onehot is 0 in float32 here; its direction is the label against the runner-up."""
    weight, logits = torch.eye(4), torch.tensor([[300.0, 100.0, 0.0, -50.0]])
    direction = gradient_direction(logits, torch.tensor([0]), weight)
    torch.testing.assert_close(direction, torch.tensor([[-1.0, 1.0, 0.0, 0.0]]) / 2**0.5)


def test_a_single_class_is_zero_with_zero_gradient() -> None:
    setup = make_setup(labels=np.zeros(20, dtype=np.int64))
    case, objectives = make_case(setup, 5), build(BASE, setup)
    part = case.part(objectives)
    part.backward()
    assert part.item() == 0.0 and case.student_pooled.grad.abs().sum() == 0.0


def test_starts_near_the_log_of_the_number_of_candidates() -> None:
    """At a high temperature every candidate is alike: ln(1 + |N|) exactly in the limit."""
    setup = make_setup(classes=8, labels=np.arange(8), d_s=16, d_t=16)
    case = make_case(setup, 8)
    value = case.part(build({**BASE, "temperature": 1e6, "anchors": "batch"}, setup)).item()
    assert value == pytest.approx(np.log(7), abs=1e-4)


@pytest.mark.parametrize("source", ["gradient", "feature"])
def test_rows_that_nearly_coincide_do_not_outweigh_the_others(source: str) -> None:
    setup = make_setup(d_s=16, d_t=16)
    objectives = build({**BASE, "source": source, "anchors": "batch", "negatives": "all"}, setup)
    sizes = []
    for apart in (1.0, 1e-6):
        case = make_case(setup, 8, index=[1, 1, *range(2, 8)])
        with torch.no_grad():
            for outputs in (case.student, case.teacher):
                for x in (outputs.logits, outputs.pooled):
                    x[1] = x[0] + apart * (x[1] - x[0])
        grads = torch.autograd.grad(case.part(objectives), list(objectives.parameters()))
        sizes.append(sum(grad.norm() for grad in grads))
    assert sizes[1] < 10 * sizes[0]


def test_anchors_are_samples_and_change_with_the_step() -> None:
    index = torch.randperm(60)[:20]
    chosen = [set(index[anchor_rows(index, 4, replace(STEP, step=step))].tolist()) for step in range(6)]
    order = torch.randperm(20)
    assert set(index[order][anchor_rows(index[order], 4, replace(STEP, step=0))].tolist()) == chosen[0]
    assert all(len(c) == 4 for c in chosen) and len(set(map(frozenset, chosen))) > 3


def test_heads_other_than_one_linear_are_refused_unless_features_are_related() -> None:
    setup = make_setup(linear_head=False)
    with pytest.raises(ConfigError, match=r"objectives\.one\.source: the student small .* Set it to feature"):
        build(BASE, setup)
    teacher = ModelInfo("ofa", num_classes=5, pooled_dim=9, linear_head=False)
    with pytest.raises(ConfigError, match=r"objectives\.c\.gradient_relation\.source: the teacher ofa"):
        ObjectiveSet({"c": {"type": "clmkd"}}, replace(make_setup(), teacher=teacher))
    assert torch.isfinite(make_case(setup).part(build({**BASE, "source": "feature"}, setup)))


def test_a_self_supervised_teacher_can_be_related_by_features() -> None:
    setup = replace(make_setup(), teacher=ModelInfo("moco", num_classes=None, pooled_dim=9, linear_head=False))
    with pytest.raises(ConfigError, match="moco has no classifier"):
        build(BASE, setup)
    case = make_case(make_setup())
    case.teacher.logits = None
    assert torch.isfinite(case.run(build({**BASE, "source": "feature"}, setup)).total)


def test_memory_never_contrasts_a_row_or_an_anchor_with_itself() -> None:
    setup = make_setup(classes=2, labels=np.arange(4) % 2)
    one = member(build({**BASE, "mode": "memory", "bank_samples": 50, "negatives": "all", "anchors": 2}, setup))
    targets = Targets(torch.tensor([0, 1, 0]), torch.tensor([0, 1, 2]))
    batch = one._batch(targets, STEP)
    for a, anchor in enumerate(batch.anchors.tolist()):
        for i in range(3):
            negatives = set(batch.drawn[batch.negative[a, i]].tolist())
            assert negatives == {0, 1, 2, 3} - {i, anchor}


def test_bank_bytes_count_every_bank() -> None:
    setup = make_setup()
    one = {**BASE, "mode": "memory"}
    many = {**one, "source": "both", "symmetric": True}
    sizes = bank_bytes({"one": one, "many": many, "none": BASE}, setup)
    assert sizes == {"one": 60 * 7 * 4 + 60 * 16, "many": 4 * 60 * 7 * 4 + 60 * 16}
