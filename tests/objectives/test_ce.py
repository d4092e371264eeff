from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.errors import ConfigError
from kdray.models.outputs import ModelInfo
from kdray.objectives import ObjectiveSet, Setup
from kdray.objectives.ce import cross_entropy

from .cases import STEP, build, make_case, make_setup


def loops(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    total = logits.new_zeros(())
    for row, label in zip(logits, labels.tolist(), strict=True):
        log_sum = torch.log(sum((x.exp() for x in row), start=logits.new_zeros(())))
        for c, x in enumerate(row):
            target = smoothing / len(row) + (1 - smoothing) * (c == label)
            total = total - target * (x - log_sum)
    return total / len(logits)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0, 0.9), st.integers(0, 1000))
def test_equals_loops(rows: int, classes: int, smoothing: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=random, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, classes, (rows,), generator=random)
    ours, theirs = cross_entropy(logits, labels, smoothing), loops(logits, labels, smoothing)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (ours, theirs)))


def test_float32() -> None:
    logits, labels = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]]), torch.tensor([1, 2])
    torch.testing.assert_close(cross_entropy(logits, labels), loops(logits, labels, 0.0))


def test_certain_and_right_costs_nothing() -> None:
    assert cross_entropy(torch.tensor([[1e4, -1e4]]), torch.tensor([0])).item() == 0.0
    assert cross_entropy(torch.zeros(3, 8), torch.tensor([0, 1, 2])).item() == pytest.approx(math.log(8))


def test_is_the_mean_over_all_views() -> None:
    setup = make_setup(views=3)
    case = make_case(setup, 4)
    (part,) = case.run(build({"type": "ce"}, setup)).parts.values()
    torch.testing.assert_close(part, loops(case.student.logits, case.targets.labels.repeat(3), 0.0))


def test_needs_no_teacher() -> None:
    setup = make_setup()
    case = make_case(setup)
    alone = Setup(**{**vars(setup), "teacher": None})
    report = ObjectiveSet({"ce": {}}, alone)(case.targets, case.student, None, None, None, STEP)
    assert torch.isfinite(report.total)


def test_needs_a_classifier() -> None:
    setup = make_setup()
    bare = Setup(**{**vars(setup), "student": ModelInfo("bare", num_classes=None, pooled_dim=6, linear_head=False)})
    with pytest.raises(ConfigError, match=r"objectives\.ce: bare has no classifier"):
        ObjectiveSet({"ce": {}}, bare)


def test_the_first_view_alone_is_the_first_rows() -> None:
    setup = make_setup(views=3)
    case = make_case(setup, 4)
    part = case.part(build({"type": "ce", "views": "first"}, setup))
    expected = -case.student.logits.log_softmax(1)[torch.arange(4), case.targets.labels].mean()
    torch.testing.assert_close(part, expected)
