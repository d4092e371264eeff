from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdray.errors import ConfigError
from kdray.objectives import ObjectiveSet, bank_bytes, list_methods, needs, normalise, parse
from kdray.objectives.mcld.category import Category, category_contrast, columns
from kdray.objectives.mcld.queue import LogitQueue

from .cases import STEP, Case, build, make_case, make_setup, mapped

Entry = tuple[Tensor, int, int]
"""A row of the queue: the teacher's logits, label, sample."""


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def facts(case: Case) -> tuple[Tensor, Tensor, list[int], list[int]]:
    """Student's and teacher's logits, labels and samples of all rows."""
    labels, index = case.targets.row_labels.tolist(), case.targets.row_index.tolist()
    return case.student.logits, case.teacher.logits.detach(), labels, index


def contrast_loops(
    a: Tensor, b: Tensor, labels: list[int], index: list[int], mask: str, tau: float, queue: list[Entry]
) -> Tensor:
    """Reference A1 to A3: rows of `a` against those of `b` and of the queue."""
    total = a.new_zeros(())
    for i in range(len(a)):
        sums, positives = [], []
        for j in range(len(b)):
            score = cosine(a[i], b[j]) / tau
            if j == i or (mask == "multi_positive" and labels[j] == labels[i]):
                positives.append(score)
            other = {"none": index[j] != index[i], "exclude": labels[j] != labels[i], "multi_positive": True}[mask]
            if j == i or other:
                sums.append(score.exp())
        for row, label, sample in queue:
            if sample == index[i]:
                continue
            score = cosine(a[i], row) / tau
            if mask == "multi_positive" and label == labels[i]:
                positives.append(score)
            if mask != "exclude" or label != labels[i]:
                sums.append(score.exp())
        total = total - sum(p - torch.stack(sums).sum().log() for p in positives) / len(positives)
    return total / len(a)


def relation_loops(
    s: Tensor, t: Tensor, labels: list[int], index: list[int], mask: str, tau: float, queue: list[Entry]
) -> Tensor:
    total = s.new_zeros(())
    for i in range(len(s)):
        p, q = [], []
        for j in range(len(s)):
            if j != i and (mask == "none" or labels[j] != labels[i]):
                p.append((cosine(t[i], t[j]) / tau).exp())
                q.append((cosine(s[i], s[j]) / tau).exp())
        for row, label, sample in queue:
            if sample != index[i] and (mask == "none" or label != labels[i]):
                p.append((cosine(t[i], row) / tau).exp())
                q.append((cosine(s[i], row) / tau).exp())
        for a, b in zip(p, q, strict=True):
            total = total + a / sum(p) * ((a / sum(p)).log() - (b / sum(q)).log())
    return total / len(s)


def category_loops(s: Tensor, t: Tensor, classes: list[int], tau: float, centre: bool) -> Tensor:
    def column(x: Tensor, c: int) -> Tensor:
        return x[:, c] - x[:, c].mean() if centre else x[:, c]

    total = s.new_zeros(())
    for c in classes:
        scores = [cosine(column(s, c), column(t, d)) / tau for d in range(s.shape[1])]
        total = total - scores[c] + sum(x.exp() for x in scores).log()
    return total / len(classes)


def entries(case: Case) -> list[Entry]:
    _, t, labels, index = facts(case)
    return list(zip(t, labels, index, strict=True))


def agree(case: Case, ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs)
    one, other = (torch.autograd.grad(x, case.student_pooled, retain_graph=True)[0] for x in (ours, theirs))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rows,views", [(2, 1), (9, 1), (4, 2)])
@pytest.mark.parametrize("mask", ["none", "exclude", "multi_positive"])
@pytest.mark.parametrize("method", ["mcld.instance", "mcld.sample"])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_rows_equal_loops(rows: int, views: int, mask: str, method: str, tau: float) -> None:
    setup = make_setup(views=views)
    case = make_case(setup, rows)
    s, t, labels, index = facts(case)
    a, b = (s, t) if method == "mcld.instance" else (t, s)
    ours = case.part(build({"type": method, "mask": mask, "temperature": tau}, setup))
    agree(case, ours, contrast_loops(a, b, labels, index, mask, tau, []))


@pytest.mark.parametrize("mask", ["none", "exclude", "multi_positive"])
def test_a_queue_adds_candidates_of_earlier_steps(mask: str) -> None:
    setup = make_setup()
    first, second = make_case(setup, index=[0, 1, 2, 3, 4, 5]), make_case(setup, index=[4, 5, 6, 7, 8], seed=1)
    objectives = build({"type": "mcld.instance", "mask": mask, "queue": 9}, setup)
    first.part(objectives)
    ours = second.part(objectives)
    agree(second, ours, contrast_loops(*facts(second), mask, 0.1, entries(first)))


def test_the_multi_positive_reading_is_the_instance_term_with_that_mask() -> None:
    setup = make_setup()
    case = make_case(setup, 8)
    reading = case.part(build({"type": "mcld.sample", "reading": "multi_positive"}, setup))
    instance = case.part(build({"type": "mcld.instance", "mask": "multi_positive"}, setup))
    assert torch.equal(reading, instance)


@pytest.mark.parametrize("queue", [0, 7])
@pytest.mark.parametrize("mask", ["none", "exclude"])
def test_relation_equals_loops(queue: int, mask: str) -> None:
    setup = make_setup()
    first, second = make_case(setup, index=[0, 1, 2, 3, 4, 5]), make_case(setup, index=[4, 5, 6, 7, 8, 9], seed=1)
    params = {"type": "mcld.sample", "reading": "relation", "mask": mask, "queue": queue, "temperature": 0.5}
    objectives = build(params, setup)
    first.part(objectives)
    past = entries(first) if queue else []
    agree(second, second.part(objectives), relation_loops(*facts(second), mask, 0.5, past))


@pytest.mark.parametrize("rows,views", [(3, 1), (9, 1), (4, 2)])
@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("present", [False, True])
def test_category_equals_loops(rows: int, views: int, centre: bool, present: bool) -> None:
    setup = make_setup(views=views)
    case = make_case(setup, rows)
    s, t, labels, _ = facts(case)
    classes = sorted(set(labels)) if present else list(range(5))
    params = {"type": "mcld.category", "centre": centre, "classes": "present" if present else "all"}
    agree(case, case.part(build(params, setup)), category_loops(s, t, classes, 0.1, centre))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(1, 6), st.floats(0.05, 3.0), st.integers(0, 99))
def test_category_of_any_shape_equals_loops(rows: int, classes: int, tau: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(rows, classes, generator=random, dtype=torch.float64) for _ in range(2))
    ours = category_contrast(columns(s, False), columns(t, False), torch.ones(classes, dtype=torch.bool), tau)
    torch.testing.assert_close(ours, category_loops(s, t, list(range(classes)), tau, False))


# -- what the formulas promise ----------------------------------------------------------------------------------------


def spread_out(n: int) -> Tensor:
    """n rows whose cosines are all -1 / (n - 1): as far apart as n directions can be."""
    return torch.eye(n, dtype=torch.float64) - 1 / n


@pytest.mark.parametrize("n,tau", [(64, 1.0), (64, 0.1), (16, 0.5)])
@pytest.mark.parametrize("method", ["mcld.instance", "mcld.sample", "mcld.category"])
def test_the_floor_is_that_of_evenly_spread_rows(n: int, tau: float, method: str) -> None:
    """log(1 + (N - 1) exp(-(1 + 1/(N - 1)) / tau)) is reached there, and not by a copy of any other teacher."""
    setup = make_setup(classes=n, labels=np.arange(2 * n) % n)
    objectives = build({"type": method, "temperature": tau}, setup)
    case = make_case(setup, index=list(range(n)))
    case.student.logits = case.teacher.logits = spread_out(n).requires_grad_()
    floor = math.log1p((n - 1) * math.exp(-(1 + 1 / (n - 1)) / tau))
    assert case.part(objectives).item() == pytest.approx(floor)
    (slope,) = torch.autograd.grad(case.part(objectives), case.student.logits)
    assert slope.abs().max() < 1e-10
    random = make_case(setup, index=list(range(n)), seed=3)
    random.student.logits = random.teacher.logits
    assert random.part(objectives).item() > floor


def test_a_copy_of_the_teacher_costs_almost_nothing_at_the_default_temperature() -> None:
    """N = 64, C = 100: 3.19 at tau = 1, 0.005 at 0.1; the multi-positive mask asks for more than a copy."""
    setup = make_setup(classes=100, labels=np.random.default_rng(0).integers(0, 30, 200))
    case = make_case(setup, 64)
    logits = torch.randn(64, 100, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    case.student.logits = case.teacher.logits = logits

    def value(**options: Any) -> float:
        return case.part(build({"type": "mcld.instance", **options}, setup)).item()

    assert value(mask="none", temperature=1.0) == pytest.approx(3.19, abs=0.03)
    assert value(mask="none") < 0.02 and value() < 0.02
    assert value(mask="multi_positive") > 2


@pytest.mark.parametrize("queue", [0, 12])
@pytest.mark.parametrize("mask", ["none", "exclude"])
def test_relations_of_a_copy_cost_nothing(mask: str, queue: int) -> None:
    setup = make_setup()
    objectives = build({"type": "mcld.sample", "reading": "relation", "mask": mask, "queue": queue}, setup)
    for seed in (0, 1):
        case = make_case(setup, 8, seed=seed)
        case.student.logits = case.teacher.logits
        assert abs(case.part(objectives).item()) < 1e-12


@pytest.mark.parametrize("method", ["mcld.instance", "mcld.sample", "mcld.category"])
def test_the_students_scale_does_not_matter(method: str) -> None:
    setup = make_setup()
    case, objectives = make_case(setup, 8), build({"type": method}, setup)
    scaled = replace(case, student=mapped(case.student, lambda x: 50 * x))
    torch.testing.assert_close(case.part(objectives), scaled.part(objectives))


def test_centred_columns_do_not_see_a_shift() -> None:
    setup = make_setup()
    case = make_case(setup, 8)
    shifted = replace(case, student=replace(case.student, logits=case.student.logits + torch.arange(5.0)))
    for centre in (True, False):
        objectives = build({"type": "mcld.category", "centre": centre}, setup)
        same = torch.isclose(case.part(objectives), shifted.part(objectives))
        assert bool(same) == centre


def test_a_constant_column_gets_no_gradient_out_of_its_rounding() -> None:
    x = torch.full((7, 3), 0.1).requires_grad_()
    columns(x, True).square().sum().backward()
    assert not x.grad.any()


def test_inputs_are_what_they_are_called() -> None:
    setup = make_setup()
    case = make_case(setup, 6)
    s, t, labels, index = facts(case)
    soft = case.part(build({"type": "mcld.instance", "inputs": "probabilities"}, setup))
    torch.testing.assert_close(soft, contrast_loops(s.softmax(1), t.softmax(1), labels, index, "exclude", 0.1, []))
    standard = case.part(build({"type": "mcld.instance", "inputs": "standardised"}, setup))
    a, b = (x - x.mean(dim=1, keepdim=True) for x in (s, t))  # a cosine does not see the scale of a row
    torch.testing.assert_close(standard, contrast_loops(a, b, labels, index, "exclude", 0.1, []))


def test_a_row_of_the_same_sample_is_never_a_negative() -> None:
    """Its second view, or the row that stands in for a broken image."""
    setup = make_setup()
    case = make_case(setup, index=[3, 3])
    assert case.part(build({"type": "mcld.instance", "mask": "none"}, setup)).item() == pytest.approx(0)


# -- queue ------------------------------------------------------------------------------------------------------------


def push(queue: LogitQueue, index: list[int], step: int) -> None:
    where = torch.tensor(index)
    queue.push(where[:, None].float().expand(-1, 2), where % 3, where, where, seed=0, step=step)


def test_a_queue_forgets_the_oldest_steps_first() -> None:
    queue = LogitQueue(6, 2)
    for step, index in enumerate(([0, 1, 2, 3], [4, 5], [6, 7, 8])):
        push(queue, index, step)
    kept = set(queue.index.tolist())
    assert {4, 5, 6, 7, 8} < kept and len(kept & {0, 1, 2, 3}) == 1
    assert queue.head.item() == 9 % 6
    assert torch.equal(queue.logits[:, 0].long(), queue.index) and torch.equal(queue.labels, queue.index % 3)


def test_a_batch_larger_than_the_queue_fills_it_once() -> None:
    queue = LogitQueue(4, 2)
    push(queue, list(range(11)), 0)
    assert len(set(queue.index.tolist())) == 4 and queue.head.item() == 0


def test_the_order_within_a_step_is_drawn_not_that_of_the_batch() -> None:
    one, two = LogitQueue(5, 2), LogitQueue(5, 2)
    push(one, list(range(8)), 3)
    push(two, list(range(7, -1, -1)), 3)
    assert torch.equal(one.index, two.index) and one.index.tolist() != sorted(one.index.tolist())


def test_queue_bytes_are_those_of_its_buffers() -> None:
    setup = make_setup()
    params = {"mcld": {"instance": {"queue": 12}, "sample": {"reading": "relation", "queue": 3}}, "mcld.instance": {}}
    objectives = ObjectiveSet(params, setup)
    held = sum(buffer.numel() * buffer.element_size() for buffer in objectives.buffers())
    assert bank_bytes(params, setup) == {"mcld": held}


# -- options and the composite ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options,words",
    [
        ({"queue": 8}, "transposed"),
        ({"reading": "multi_positive", "mask": "exclude"}, "exclude"),
        ({"reading": "relation", "mask": "multi_positive"}, "relation"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse({"mcld.sample": options})
    assert caught.value.where == "objectives.mcld.sample"


def test_the_composite_is_the_sum_of_its_members() -> None:
    setup = make_setup()
    case = make_case(setup, 8)
    single = {"ce": {}, "kd": {}, "mcld.instance": {}, "mcld.sample": {}, "mcld.category": {}}
    alone = case.run(build_all(single))
    whole = case.run(build_all({"mcld": {"kd": {"weight": 1}}}))
    torch.testing.assert_close(whole.total, alone.total)
    assert whole.weights["mcld.category"] == pytest.approx(STEP.epoch / 20)
    default = case.run(build_all({"mcld": {}}))
    assert set(default.parts) == {"mcld.ce", "mcld.instance", "mcld.sample", "mcld.category"}
    assert not needs({"mcld": {}}).labels and needs({"mcld": {}}).teacher_logits


def build_all(params: dict[str, Any]) -> ObjectiveSet:
    return ObjectiveSet(params, make_setup()).double()


def test_the_category_term_warms_up_over_twenty_epochs() -> None:
    case, objectives = make_case(make_setup(), 8), build_all({"mcld": {}})
    for epoch, weight in ((0.0, 0.0), (10.0, 0.5), (20.0, 1.0), (99.0, 1.0)):
        report = case.run(objectives, replace(STEP, epoch=epoch, epochs=100))
        assert report.weights["mcld.category"] == weight
        assert ("mcld.category" in report.parts) == (weight > 0)
    (entry,) = parse({"mcld": {"kd": {"temperature": 2.0}, "category": {"schedule": "constant"}}})
    assert entry.options.kd.weight == 0 and entry.options.category.schedule.type == "constant"
    assert Category.config().temperature == 0.1


def test_defaults_leave_no_trace_in_digests() -> None:
    explicit = {"reading": "transposed", "temperature": 0.1, "queue": 0, "mask": None}
    assert normalise({"mcld": {"sample": explicit, "kd": {"weight": 0}}}) == normalise({"mcld": {}})


def test_mcld_is_never_called_more_than_a_reconstruction() -> None:
    rows = [row for row in list_methods() if row.name.startswith("mcld")]
    assert len(rows) == 4 and {row.provenance for row in rows} == {"reconstruction"}
