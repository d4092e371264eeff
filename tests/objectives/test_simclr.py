from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.errors import ConfigError
from kdray.objectives import ObjectiveSet, needs
from kdray.objectives.simclr import SimCLR

from .cases import STEP, build, make_case, make_setup


def member(objectives: ObjectiveSet) -> SimCLR:
    (one,) = objectives.members.values()
    assert isinstance(one, SimCLR)
    return one


@settings(max_examples=15)
@given(st.integers(1, 5), st.integers(2, 3), st.sampled_from([0.1, 0.5]))
def test_equals_loops(samples: int, views: int, tau: float) -> None:
    """Eq. 1 over all ordered pairs of views; with more than two views, the mean over an anchor's positives."""
    setup = make_setup(views=views)
    case, objectives = make_case(setup, samples), build({"type": "simclr", "dim": 7, "temperature": tau}, setup)
    z = member(objectives).head(case.student_pooled)
    total = z.new_zeros(())
    for a in range(views * samples):
        similar = [(z[a] @ z[q] / (z[a].norm() * z[q].norm()) / tau).exp() for q in range(views * samples)]
        bottom = sum(similar[q] for q in range(len(similar)) if q != a)
        positives = [v * samples + a % samples for v in range(views) if v * samples + a % samples != a]
        total = total - sum((similar[p] / bottom).log() for p in positives) / len(positives)
    torch.testing.assert_close(case.part(objectives), total / (views * samples))


def test_the_floor_is_reached_by_equal_views_that_are_orthogonal_to_all_others() -> None:
    setup = make_setup(d_s=4, views=2)
    case, objectives = make_case(setup, 4), build({"type": "simclr", "dim": 4, "temperature": 0.1}, setup)
    one = member(objectives)
    one.head.forward = lambda x: x  # type: ignore[method-assign]
    case.student.pooled = torch.eye(4, dtype=torch.float64).repeat(2, 1)
    # each anchor: its positive at 1, six others at 0
    floor = math.log(1 + 6 * math.exp(-10))
    torch.testing.assert_close(case.part(objectives), torch.tensor(floor, dtype=torch.float64))


def test_labels_mean_nothing() -> None:
    setup = make_setup(views=2)
    objectives = build({"type": "simclr", "dim": 7}, setup)
    case = make_case(setup, 5)
    before = case.part(objectives)
    case.targets.labels.zero_()
    assert torch.equal(case.part(objectives), before)


def test_a_sample_drawn_twice_is_its_own_negative() -> None:
    """Positions count, as in the paper: two slots of the batch with one sample are not each other's positives."""
    setup = make_setup(views=2)
    objectives = build({"type": "simclr", "dim": 7}, setup)
    twice, apart = make_case(setup, index=[7, 7, 3]), make_case(setup, index=[7, 8, 3])
    apart.student = twice.student
    assert torch.equal(twice.part(objectives), apart.part(objectives))


def test_needs_neither_teacher_nor_classifier() -> None:
    wanted = needs({"simclr": {}})
    assert not wanted.teacher and wanted.min_views == 2
    setup = make_setup(views=2)
    headless = type(setup.student)("headless", num_classes=None, pooled_dim=6, linear_head=False)
    setup = type(setup)(**{**vars(setup), "student": headless, "teacher": None})
    case, objectives = make_case(make_setup(views=2), 4), build({"type": "simclr", "dim": 7}, setup)
    case.student.logits = None
    report = objectives(case.targets, case.student, None, None, None, STEP)
    report.total.backward()
    assert torch.isfinite(report.total) and case.student_pooled.grad is not None


@pytest.mark.parametrize(
    ("params", "said"),
    [({}, "it needs 2 views"), ({"temperature": 0}, "objectives.one.temperature"), ({"dim": 0}, "objectives.one.dim")],
)
def test_refusals(params: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build({"type": "simclr", **params}, make_setup(views=1))


def test_hidden_width() -> None:
    setup = make_setup(d_s=6, views=2)
    assert member(build({"type": "simclr"}, setup)).head.enter.out_features == 6
    assert member(build({"type": "simclr", "hidden": 9}, setup)).head.enter.out_features == 9
