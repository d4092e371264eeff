from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kdray.errors import ConfigError
from kdray.objectives import ObjectiveSet
from kdray.objectives.srrl import Connector, read_by

from .cases import build, make_case, make_setup


def connected(places: Tensor, weight: Tensor) -> Tensor:
    """Loops: [n, d_s, P] -> [n, d_t]; fresh batch norm (scale 1, shift 0) over rows and places, ReLU, mean."""
    n, _, count = places.shape
    out = []
    for row in weight:
        values = [[sum(w * places[i, c, p] for c, w in enumerate(row)) for p in range(count)] for i in range(n)]
        flat = [one for line in values for one in line]
        mean = sum(flat) / len(flat)
        deviation = (sum((one - mean) ** 2 for one in flat) / len(flat) + 1e-5) ** 0.5
        out.append(torch.stack([sum(((v - mean) / deviation).clamp_min(0) for v in line) / count for line in values]))
    return torch.stack(out, dim=1)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(0, 1000))
def test_the_connector_equals_loops(rows: int, d_s: int, d_t: int, side: int, seed: int) -> None:
    torch.manual_seed(seed)
    connector = Connector(d_s, d_t).double()
    x = torch.randn(*([rows, d_s, side, side] if side else [rows, d_s]), dtype=torch.float64, requires_grad=True)
    places = x.flatten(2) if side else x[:, :, None]
    ours, theirs = connector(x), connected(places, connector.conv.weight[:, :, 0, 0])
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-8)
    mix = torch.randn_like(ours)
    gradients = [torch.autograd.grad((y * mix).sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("connect", ["pooled", "map"])
def test_parts_are_mean_squares_of_the_feature_and_of_what_the_teachers_classifier_reads(connect: str) -> None:
    setup = make_setup()
    case, objectives = make_case(setup, 5), build({"type": "srrl", "connect": connect, "feature": 3}, setup)
    (member,) = objectives.members.values()
    x = member.connector(case.student.stages[-1] if connect == "map" else case.student_pooled)
    report = case.run(objectives)
    logits = x @ case.teacher_head.weight.T + case.teacher_head.bias
    expected = {
        "one.feature": (x - case.teacher_pooled).square().mean().detach(),
        "one.regression": (logits - case.teacher.logits).square().mean().detach(),
    }
    torch.testing.assert_close(report.parts, expected)
    assert report.weights == {"one.feature": 3.0, "one.regression": 1.0}


@pytest.mark.parametrize("connect", ["pooled", "map"])
def test_zero_where_the_connected_feature_is_the_teachers(connect: str) -> None:
    setup = make_setup()
    case, objectives = make_case(setup, 5), build({"type": "srrl", "connect": connect}, setup)
    (member,) = objectives.members.values()
    x = member.connector(case.student.stages[-1] if connect == "map" else case.student_pooled).detach()
    case.teacher.pooled, case.teacher.logits = x, case.teacher_head(x)
    report = case.run(objectives)
    assert report.parts["one.feature"].item() == pytest.approx(0, abs=1e-20)
    assert report.parts["one.regression"].item() == pytest.approx(0, abs=1e-20)
    case.teacher.pooled, case.teacher.logits = x + 1, case.teacher_head(x) - 2
    parts = case.run(objectives).parts
    assert parts["one.feature"].item() == pytest.approx(1) and parts["one.regression"].item() == pytest.approx(4)


def test_read_by_is_the_classifier() -> None:
    head = nn.Linear(4, 3).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    assert torch.equal(read_by(head, x), head(x))


def test_the_gradient_passes_through_the_teachers_classifier_and_stops_at_its_weights() -> None:
    head = nn.Linear(4, 3)
    x = torch.randn(5, 4, requires_grad=True)
    read_by(head, x).sum().backward()
    torch.testing.assert_close(x.grad, head.weight.sum(dim=0).expand(5, 4))
    assert head.weight.grad is None and head.bias.grad is None
    bare = nn.Linear(4, 3, bias=False)
    assert torch.equal(read_by(bare, x), bare(x))


def test_networks_that_do_not_serve() -> None:
    setup = make_setup()
    with pytest.raises(ConfigError, match=r"objectives\.srrl: the classifier of large is not one Linear"):
        ObjectiveSet({"srrl": {}}, replace(setup, teacher=replace(setup.teacher, linear_head=False)))
    bare = replace(setup, student=replace(setup.student, stage_shapes=()))
    ObjectiveSet({"srrl": {}}, bare)
    with pytest.raises(ConfigError, match=r"objectives\.srrl\.connect: small hands out no feature map"):
        ObjectiveSet({"srrl": {"connect": "map"}}, bare)
