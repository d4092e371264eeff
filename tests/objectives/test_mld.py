from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.errors import ConfigError
from kdray.objectives import ObjectiveSet
from kdray.objectives.mld import batch_level, class_level, instance_level, unsure

from .cases import build, make_case, make_setup

FIVE = [4.0, 3.0, 5.0, 2.0, 6.0]


def softmax(logits: torch.Tensor, temperature: float) -> list[list[torch.Tensor]]:
    powers = [[(x / temperature).exp() for x in row] for row in logits]
    return [[x / sum(row) for x in row] for row in powers]


def instance(
    student: torch.Tensor, teacher: torch.Tensor, kept: list[float], temperatures: list[float]
) -> torch.Tensor:
    total = 0 * student.sum()
    for temperature in temperatures:
        for q, p, keep in zip(softmax(student, temperature), softmax(teacher, temperature), kept, strict=True):
            for a, b in zip(p, q, strict=True):
                total = total + keep * temperature**2 * a * (a.log() - b.log()) / len(student)
    return total


def relations(
    student: torch.Tensor, teacher: torch.Tensor, kept: list[float], temperatures: list[float]
) -> torch.Tensor:
    """Inner products between the rows of probabilities; transposed ones for classes are made by the caller."""
    total = 0 * student.sum()
    for temperature in temperatures:
        q, p = softmax(student, temperature), softmax(teacher, temperature)
        for i, keep in enumerate(kept):
            for j in range(len(q)):
                ours = sum(a * b for a, b in zip(q[i], q[j], strict=True))
                theirs = sum(a * b for a, b in zip(p[i], p[j], strict=True))
                total = total + keep * (ours - theirs) ** 2 / len(q)
    return total


def class_relations(
    student: torch.Tensor, teacher: torch.Tensor, kept: list[float], temperatures: list[float]
) -> torch.Tensor:
    total, classes = 0 * student.sum(), student.shape[1]
    for temperature in temperatures:
        q, p = softmax(student, temperature), softmax(teacher, temperature)
        for c in range(classes):
            for d in range(classes):
                ours, theirs = (sum(row[c] * row[d] for row in x) for x in (q, p))
                total = total + kept[c] * (ours - theirs) ** 2 / classes
    return total


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000))
def test_equals_loops(rows: int, classes: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, classes, generator=random, dtype=torch.float64)
    student.requires_grad_()
    row_kept, class_kept = (torch.randint(0, 2, (n,), generator=random).double() for n in (rows, classes))
    two = [3.0, 1.5]
    pairs = (
        (instance_level(student, teacher, two, row_kept), instance(student, teacher, row_kept.tolist(), two)),
        (
            batch_level(student, teacher, student, teacher, two, row_kept),
            relations(student, teacher, row_kept.tolist(), two),
        ),
        (class_level(student, teacher, two, class_kept), class_relations(student, teacher, class_kept.tolist(), two)),
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-9)
        gradients = [torch.autograd.grad(x, student, retain_graph=True)[0] for x in (ours, theirs)]
        torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-9)


def kept(teacher: torch.Tensor, select: str) -> tuple[list[float], list[float]]:
    """Rows and classes of at most median confidence, by numpy's percentile as the released code has it."""
    p = teacher.detach().softmax(dim=1).numpy()
    masks = [(x <= np.percentile(x, 50)).astype(float) for x in (p.max(axis=1), p.sum(axis=0))]
    return tuple((m if select == "mask" else np.full_like(m, m.mean())).tolist() for m in masks)


@pytest.mark.parametrize("select", ["mask", "scale"])
@pytest.mark.parametrize("rows", [1, 4, 5])
def test_one_view_takes_all_three_levels(select: str, rows: int) -> None:
    setup = make_setup()
    case = make_case(setup, rows)
    report = case.run(build({"type": "mld", "select": select}, setup))
    s, t = case.student.logits.detach(), case.teacher.logits.detach()
    row_kept, class_kept = kept(t, select)
    expected = {
        "one.instance": instance(s, t, row_kept, FIVE),
        "one.batch": relations(s, t, row_kept, FIVE),
        "one.classes": class_relations(s, t, class_kept, FIVE),
    }
    torch.testing.assert_close(report.parts, expected)
    assert report.weights == {name: 0.9 for name in expected}


@pytest.mark.parametrize("strong", ["instance", "all"])
@pytest.mark.parametrize("views", [2, 3])
def test_further_views_are_strong_and_nothing_is_selected_in_them(strong: str, views: int) -> None:
    setup = make_setup(views=views)
    case = make_case(setup, 4)
    params: dict[str, Any] = {"type": "mld", "select": "mask", "strong": strong, "temperatures": [2, 6]}
    report = case.run(build(params, setup))
    (s, *strong_s), (t, *strong_t) = (z.detach().split(4) for z in (case.student.logits, case.teacher.logits))
    row_kept, class_kept = kept(t, "mask")
    assert sum(row_kept) == 2 and sum(class_kept) == 3
    expected = [
        instance(s, t, row_kept, [2, 6]),
        relations(s, t, row_kept, [2, 6]),
        class_relations(s, t, class_kept, [2, 6]),
    ]
    for a, b in zip(strong_s, strong_t, strict=True):
        expected[0] = expected[0] + instance(a, b, [1.0] * 4, [2, 6]) / (views - 1)
        if strong == "all":
            expected[1] = expected[1] + relations(a, b, [1.0] * 4, [2, 6]) / (views - 1)
            expected[2] = expected[2] + class_relations(a, b, [1.0] * 5, [2, 6]) / (views - 1)
    torch.testing.assert_close(list(report.parts.values()), expected)


def test_a_mask_selects_where_a_scale_does_not() -> None:
    """The released code multiplies the finished mean by the mask: a row that the mask leaves out still counts."""
    setup = make_setup()
    for select, reached in (("mask", False), ("scale", True)):
        case = make_case(setup, 4)
        surest = case.teacher.logits.softmax(dim=1).amax(dim=1).argmax()
        part = case.run(build({"type": "mld", "select": select, "batch": 0, "classes": 0}, setup)).total
        (gradient,) = torch.autograd.grad(part, case.student_pooled)
        assert bool(gradient[surest].any()) == reached


def test_the_median() -> None:
    confidence = torch.tensor([0.9, 0.2, 0.4, 0.3])
    assert unsure(confidence, "mask").tolist() == [0.0, 1.0, 0.0, 1.0]
    assert unsure(confidence[:3], "mask").tolist() == [0.0, 1.0, 1.0]
    assert unsure(confidence[:3], "scale").tolist() == pytest.approx([2 / 3] * 3)
    assert unsure(torch.full((4,), 0.7), "mask").tolist() == [1.0] * 4


def test_zero_at_the_teacher() -> None:
    setup = make_setup(views=2)
    case = make_case(setup, 4)
    case.student.logits = case.teacher.logits.clone()
    report = case.run(build({"type": "mld", "strong": "all"}, setup))
    assert [part.item() for part in report.parts.values()] == [0.0, 0.0, 0.0]


def test_weights_of_the_levels() -> None:
    setup = make_setup()
    case = make_case(setup)
    report = case.run(build({"type": "mld", "weight": 2, "instance": 3, "batch": 0, "classes": 0.5}, setup))
    assert report.weights == {"one.instance": 6.0, "one.batch": 0.0, "one.classes": 1.0}
    parts = report.parts
    torch.testing.assert_close(report.total.detach(), 6 * parts["one.instance"] + parts["one.classes"])


def test_standardised_is_the_instance_level_alone() -> None:
    """As in the released code of logit standardisation: relations stay those of the plain probabilities."""
    setup = make_setup()
    case = make_case(setup)
    plain, report = (case.run(build({"type": "mld", "standardise": on}, setup)).parts for on in (False, True))
    s, t = (
        ((z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True)).detach()
        for z in (case.student.logits, case.teacher.logits)
    )
    row_kept, _ = kept(case.teacher.logits, "scale")
    torch.testing.assert_close(report["one.instance"], instance(s, t, row_kept, FIVE), atol=1e-5, rtol=1e-5)
    assert report["one.batch"] == plain["one.batch"] and report["one.classes"] == plain["one.classes"]


@pytest.mark.parametrize("temperatures", [[], [4, 0], [-1.0]])
def test_bad_temperatures_are_refused(temperatures: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"objectives\.mld\.temperatures"):
        ObjectiveSet({"mld": {"temperatures": temperatures}}, make_setup())
