"""The intra-class loss against loops, its gate, and its options."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kdray.errors import ConfigError
from kdray.objectives import ObjectiveSet, list_methods, needs, normalise, parse
from kdray.objectives.intra_class import confidence_margin, intra_contrast

from .cases import STEP, Case, make_case, make_setup
from .intra_class_cases import Held, build, held, run, trained


def margin_loops(logits: Tensor, label: int, kind: str) -> float:
    values = (logits.softmax(0) if kind == "probability" else logits).tolist()
    return values[label] - max(v for c, v in enumerate(values) if c != label)


def loops(case: Case, cache: Held, *, tau: float, delta: float, kind: str, divide_by: str) -> tuple[Tensor, float]:
    """Reference B1 to B3: the loss and |A| / B."""
    labels, index = case.targets.labels.tolist(), case.targets.index.tolist()
    n = len(labels)
    z = [x / x.norm() for x in case.student_pooled]
    total, anchors = case.student_pooled.new_zeros(()), 0
    for i in range(n):
        negatives = [z[j] for j in range(n) if labels[j] == labels[i] and index[j] != index[i]]
        negatives += [v for v, label, sample in cache if label == labels[i] and sample != index[i]]
        if margin_loops(case.student.logits[i].detach(), labels[i], kind) <= delta or not negatives:
            continue
        anchors += 1
        up = (z[i] @ z[n + i] / tau).exp()
        total = total - (up / (up + sum((z[i] @ v / tau).exp() for v in negatives))).log()
    return total / (max(anchors, 1) if divide_by == "anchors" else n), anchors / n


@pytest.mark.parametrize("rows", [2, 9])
@pytest.mark.parametrize("kind,delta", [("probability", -1.0), ("probability", 0.3), ("logit", -1.5), ("logit", 1.0)])
@pytest.mark.parametrize("divide_by", ["anchors", "batch"])
@pytest.mark.parametrize("size", [0, 16])
def test_the_loss_equals_loops(rows: int, kind: str, delta: float, divide_by: str, size: int) -> None:
    options = {"delta": delta, "margin": kind, "divide_by": divide_by, "cache": size, "temperature": 0.2}
    objectives, setup = build(options), make_setup(views=2)
    first, second = trained(setup, 14), trained(setup, rows, seed=1)
    run(objectives, first)
    ours, parts = run(objectives, second)
    past = held(first) if size else []
    theirs, share = loops(second, past, tau=0.2, delta=delta, kind=kind, divide_by=divide_by)
    torch.testing.assert_close(ours, theirs)
    assert parts["anchors"].item() == pytest.approx(share)
    if rows == 9:
        assert 0 < share < 1 or delta in (-1.0, -1.5)
        a, b = (torch.autograd.grad(x, second.student_pooled, retain_graph=True)[0] for x in (ours, theirs))
        torch.testing.assert_close(a, b)


def test_the_two_divisors_differ_by_the_share_of_anchors() -> None:
    case = trained(make_setup(views=2), 12)
    (a, parts), (b, _) = (run(build({"delta": 0.0, "divide_by": d}), case) for d in ("anchors", "batch"))
    assert 0 < parts["anchors"] < 1
    torch.testing.assert_close(a * parts["anchors"], b)


def test_without_class_mates_there_is_no_anchor() -> None:
    case = make_case(make_setup(views=2, labels=np.arange(60) % 5), index=[0, 1, 2, 3])
    loss, parts = run(build({"delta": -1}, labels=np.arange(60) % 5), case)
    assert loss.item() == 0 and parts["anchors"].item() == 0
    loss.backward()
    assert not case.student_pooled.grad.any()


def test_a_sample_is_no_negative_of_itself() -> None:
    """Neither as another row of the batch nor as an entry of the cache."""
    case = make_case(make_setup(views=2), index=[7, 7, 7])
    objectives = build({"delta": -1})
    for _ in range(3):
        loss, parts = run(objectives, case)
        assert loss.item() == 0 and parts["anchors"].item() == 0


def test_equal_views_and_opposite_class_mates_cost_next_to_nothing() -> None:
    a = torch.eye(4, dtype=torch.float64)[:2]
    loss = intra_contrast(a, a, -torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.bool), 0.1)
    assert loss.tolist() == pytest.approx([math.log1p(3 * math.exp(-20))] * 2)


def test_the_gate_is_not_differentiated() -> None:
    case = trained(make_setup(views=2), 12)
    (slope,) = torch.autograd.grad(run(build({}), case)[0], case.student.logits, allow_unused=True)
    assert slope is None


@pytest.mark.parametrize("kind", ["probability", "logit"])
def test_margins_equal_loops(kind: str) -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(20) % 5
    theirs = [margin_loops(row, int(label), kind) for row, label in zip(logits, labels, strict=True)]
    assert confidence_margin(logits, labels, kind).tolist() == pytest.approx(theirs)


def test_a_margin_of_minus_one_lets_even_certain_mistakes_pass() -> None:
    case = make_case(make_setup(views=2, labels=np.zeros(60, dtype=np.int64)), 4)
    case.student.logits = torch.tensor([-1e4, 1e4, 0, 0, 0]).expand(8, 5)
    assert run(build({"delta": -1}), case)[1]["anchors"].item() == 1
    assert run(build({"delta": -0.999}), case)[1]["anchors"].item() == 0


def test_before_its_start_everything_is_reported_and_nothing_added() -> None:
    case, objectives = make_case(make_setup(views=2), 12), build({"delta": -1, "start_epoch": 2, "head": "mlp"})
    before = case.run(objectives, replace(STEP, epoch=1.9))
    before.total.backward()
    assert before.total.item() == 0 and before.parts["intra_class"] > 0 and before.weights["intra_class"] == 0
    assert all(p.grad is not None and not p.grad.any() for p in objectives.parameters())
    (member,) = objectives.members.values()
    assert (member.cache.index >= 0).any()
    after = case.run(objectives, replace(STEP, epoch=2.0))
    assert after.total.item() == pytest.approx(0.02 * after.parts["intra_class"].item()) != 0


def test_views_beyond_the_second_are_not_read() -> None:
    two, three = (make_setup(views=v) for v in (2, 3))
    case = make_case(three, 8)
    short = make_case(two, 8)
    short.student = type(case.student)(*(x[:16] for x in (case.student.logits, case.student.pooled)), [])
    a, b = (ObjectiveSet({"intra_class": {"delta": -1}}, setup).double() for setup in (three, two))
    assert torch.equal(run(a, case)[0], run(b, replace(short, targets=replace(case.targets, views=2)))[0])


def test_it_needs_two_views_and_no_teacher() -> None:
    wanted = needs({"intra_class": {}})
    assert (wanted.teacher, wanted.min_views, wanted.index, wanted.labels) == (False, 2, True, False)
    with pytest.raises(ConfigError, match=r"data\.views is 1"):
        ObjectiveSet({"ce": {}, "intra_class": {}}, replace(make_setup(), teacher=None))


@pytest.mark.parametrize("delta", [1.0, -1.5])
def test_a_threshold_that_no_probability_can_pass_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta"):
        parse({"intra_class": {"delta": delta}})
    assert parse({"intra_class": {"delta": delta, "margin": "logit"}})


def test_a_network_without_classes_is_refused() -> None:
    setup = make_setup(views=2)
    with pytest.raises(ConfigError, match="no classifier"):
        ObjectiveSet({"intra_class": {}}, replace(setup, student=replace(setup.student, num_classes=None)))


def test_provenance_and_defaults() -> None:
    (row,) = (row for row in list_methods() if row.name == "intra_class")
    assert (row.family, row.provenance) == ("teacher", "reconstruction")
    explicit = {
        "weight": 0.02,
        "delta": 0.3,
        "cache": 16,
        "temperature": 0.1,
        "divide_by": "anchors",
        "start_epoch": 0.0,
    }
    assert normalise({"intra_class": explicit}) == {"intra_class": {}}
