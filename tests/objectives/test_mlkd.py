from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdray.errors import ConfigError
from kdray.models.outputs import ModelInfo
from kdray.objectives import ObjectiveSet, methods, needs, parse
from kdray.objectives.ce import cross_entropy
from kdray.objectives.mlkd.alignment import AlignmentConfig, hidden_width
from kdray.objectives.mlp import MLPHead

from .cases import STEP, Case, build, make_case, make_setup, mapped


def member(objectives: ObjectiveSet) -> Any:
    (one,) = objectives.members.values()
    return one


def head_by_hand(head: MLPHead, rows: Tensor) -> Tensor:
    """Linear - batch norm of the rows - ReLU - Linear, number by number."""
    hidden = torch.stack([head.enter.weight @ row for row in rows])
    for j in range(hidden.shape[1]):
        mean = sum(hidden[:, j]) / len(rows)
        variance = sum((x - mean) ** 2 for x in hidden[:, j]) / len(rows)
        scaled = [(x - mean) / (variance + 1e-5).sqrt() for x in hidden[:, j]]
        hidden = hidden.clone()
        hidden[:, j] = torch.stack(scaled) * head.norm.weight[j] + head.norm.bias[j]
    return torch.stack([head.leave.weight @ row.clamp(min=0) + head.leave.bias for row in hidden])


def cos(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def alignment(case: Case, q: Tensor) -> Tensor:
    t = case.teacher_pooled
    return sum(2 - 2 * cos(q[n], t[n]) for n in range(len(q))) / len(q)


def correlation(case: Case, p: Tensor, tau: float, views: int) -> Tensor:
    t, samples = case.teacher_pooled, len(case.targets.labels)
    anchors = range(samples, views * samples) if views > 1 else range(samples)
    total = p.new_zeros(())
    for a in anchors:
        columns = [j for j in range(samples) if views > 1 or j != a]
        if not columns:
            continue  # a single row has nothing to be compared with
        target = torch.stack([(cos(t[a], t[j]) / tau).exp() for j in columns])
        ours = torch.stack([(cos(p[a], p[j]) / tau).exp() for j in columns])
        target, ours = target / target.sum(), ours / ours.sum()
        for x, y in zip(target, ours, strict=True):
            total = total + x * (x / y).log()
    return total / len(anchors)


def supervised(case: Case, u: Tensor, v: Tensor, tau: float) -> Tensor:
    rows, labels = [*u, *v], case.targets.row_labels.tolist() * 2
    total = u.new_zeros(())
    for a in range(len(rows)):
        others = [q for q in range(len(rows)) if q != a]
        bottom = sum((rows[a] @ rows[q] / tau).exp() for q in others)
        positives = [q for q in others if labels[q] == labels[a]]
        total = total - sum(((rows[a] @ rows[p] / tau).exp() / bottom).log() for p in positives) / len(positives)
    return total / len(rows)


@settings(max_examples=15)
@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([{}, {"hidden": 4}, {"multiplier": 2}]))
def test_alignment_equals_loops(rows: int, views: int, options: dict[str, Any]) -> None:
    setup = make_setup(d_s=4, d_t=5, views=views)
    case, objectives = make_case(setup, rows), build({"type": "mlkd.alignment", **options}, setup)
    one = member(objectives)
    assert one.head.enter.out_features == options.get("hidden", 5 * options.get("multiplier", 16))
    torch.testing.assert_close(case.part(objectives), alignment(case, head_by_hand(one.head, case.student_pooled)))


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([0.1, 0.5]))
def test_correlation_equals_loops(rows: int, views: int, tau: float) -> None:
    setup = make_setup(d_s=4, d_t=5, views=views)
    params = {"type": "mlkd.correlation", "temperature": tau, "min_views": 1}
    case, objectives = make_case(setup, rows), build(params, setup)
    p = head_by_hand(member(objectives).head, case.student_pooled)
    torch.testing.assert_close(case.part(objectives), correlation(case, p, tau, views))


@pytest.mark.parametrize("views", [1, 2, 4])
@pytest.mark.parametrize("tau", [0.07, 0.3])
def test_supervised_equals_loops(views: int, tau: float) -> None:
    setup = make_setup(classes=3, d_s=4, d_t=5, views=views)
    case, objectives = make_case(setup, 4), build({"type": "mlkd.supervised", "dim": 6, "temperature": tau}, setup)
    one = member(objectives)
    u, v = (
        torch.nn.functional.normalize(head(x), dim=1)
        for head, x in ((one.embed_student, case.student_pooled), (one.embed_teacher, case.teacher_pooled))
    )
    torch.testing.assert_close(case.part(objectives), supervised(case, u, v, tau))


def test_composite_is_the_published_sum() -> None:
    setup = make_setup(d_s=4, d_t=5, views=4)
    case, objectives = make_case(setup, 5), build({"type": "mlkd"}, setup)
    report, members = case.run(objectives), member(objectives).members
    s, t = case.student_pooled, case.teacher_pooled
    embeddings = (
        torch.nn.functional.normalize(head(x), dim=1)
        for head, x in ((members["supervised"].embed_student, s), (members["supervised"].embed_teacher, t))
    )
    upright = cross_entropy(case.student.logits[:5], case.targets.labels)
    total = (
        1 * upright
        + 50 * correlation(case, head_by_hand(members["correlation"].head, s), 0.5, 4)
        + 1 * supervised(case, *embeddings, 0.07)
        + 20 * alignment(case, head_by_hand(members["alignment"].head, s))
    )
    torch.testing.assert_close(report.total, total)
    assert report.weights == {
        "one.ce": 1.0,
        "one.correlation": 50.0,
        "one.supervised": 1.0,
        "one.alignment": 20.0,
    }


def test_ce_of_the_composite_reads_the_first_view_alone() -> None:
    setup = make_setup(views=4)
    only_ce = {"type": "mlkd", **{name: {"weight": 0} for name in ("correlation", "supervised", "alignment")}}
    case = make_case(setup, 3)
    first = case.run(build(only_ce, setup)).total
    torch.testing.assert_close(first, cross_entropy(case.student.logits[:3], case.targets.labels))
    whole = case.run(build({**only_ce, "ce": {"views": "all"}}, setup)).total
    torch.testing.assert_close(whole, cross_entropy(case.student.logits, case.targets.row_labels))


def test_alignment_is_zero_where_the_head_gives_the_teacher_and_four_where_it_gives_the_opposite() -> None:
    setup = make_setup(d_s=5, d_t=5, views=2)
    for sign, wanted in ((1.0, 0.0), (-1.0, 4.0)):
        case, objectives = make_case(setup, 4), build({"type": "mlkd.alignment", "hidden": 5}, setup)
        head = member(objectives).head
        # Batch norm and ReLU keep nothing of a row that stands for it: let the head be its last bias alone.
        with torch.no_grad():
            head.leave.weight.zero_()
            head.leave.bias.copy_(sign * torch.arange(1.0, 6.0))
        case.teacher.pooled = 3 * torch.arange(1.0, 6.0, dtype=torch.float64).expand(8, 5)
        torch.testing.assert_close(case.part(objectives), torch.tensor(wanted, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("views", [1, 4])
def test_correlation_is_zero_where_the_head_keeps_the_teachers_cosines(views: int) -> None:
    setup = make_setup(views=views)
    case = make_case(setup, 5)
    objectives = build({"type": "mlkd.correlation", "min_views": 1}, setup)
    with torch.no_grad():
        case.teacher.pooled = 7.0 * member(objectives).head(case.student_pooled)
    assert case.part(objectives).abs() < 1e-12


def test_alignment_of_the_first_view() -> None:
    setup = make_setup(views=3)
    case = make_case(setup, 4)
    objectives = build({"type": "mlkd.alignment", "hidden": 6, "views": "first"}, setup)
    before = case.part(objectives)
    case.student.pooled = torch.cat([case.student_pooled[:4], torch.rand(8, 6, dtype=torch.float64)])
    torch.testing.assert_close(case.part(objectives), before)


def test_published_defaults() -> None:
    (entry,) = parse({"mlkd": {}})
    options: Any = entry.options
    weights = [getattr(options, name).weight for name in ("ce", "correlation", "supervised", "alignment")]
    assert weights == [1, 50, 1, 20]
    assert (options.correlation.temperature, options.supervised.temperature, options.supervised.dim) == (0.5, 0.07, 128)


@pytest.mark.parametrize(("dim", "hidden"), [(64, 1024), (256, 4096), (512, 8192), (1024, 4096), (2048, 2048)])
def test_hidden_width_is_cut_for_wide_teachers_alone(dim: int, hidden: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="kdray"):
        assert hidden_width(AlignmentConfig(), dim) == hidden
    assert [record.levelname for record in caplog.records] == (["WARNING"] if hidden < 16 * dim else [])
    assert all(str(hidden) in record.getMessage() for record in caplog.records)
    assert hidden_width(AlignmentConfig(hidden=7), dim) == 7
    assert hidden_width(AlignmentConfig(max_weights=1), dim) == 1


@pytest.mark.parametrize("student_dim", [64, 1280])
def test_the_head_of_a_resnet50_teacher_stays_below_ten_million(student_dim: int) -> None:
    with torch.device("meta"):
        head = MLPHead(student_dim, hidden_width(AlignmentConfig(), 2048), 2048)
    assert sum(parameter.numel() for parameter in head.parameters()) < 10e6


def test_a_teacher_without_a_classifier_does() -> None:
    setup = make_setup(views=4)
    teacher = ModelInfo("headless", num_classes=None, pooled_dim=9, linear_head=False)
    setup = type(setup)(**{**vars(setup), "teacher": teacher})
    case, objectives = make_case(make_setup(views=4), 4), build({"type": "mlkd"}, setup)
    case.teacher.logits = None
    report = objectives(case.targets, case.student, case.teacher, case.student_head, None, STEP)
    report.total.backward()
    assert torch.isfinite(report.total)
    assert not needs({"mlkd": {}}).teacher_logits


@pytest.mark.parametrize("params", [{"type": "mlkd"}, {"type": "mlkd.correlation"}])
def test_four_views_are_asked_for_unless_said_otherwise(params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"objectives\.one: it needs 4 views .* data\.views is 2.* to 4"):
        build(params, make_setup(views=2))
    fewer = {"correlation": {"min_views": 2}} if params["type"] == "mlkd" else {"min_views": 2}
    build({**params, **fewer}, make_setup(views=2))
    assert needs({"one": {**params, **fewer}}).min_views == 2


def test_local_heads_normalise_by_their_own_rows() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4, dtype=torch.float64)
    local = MLPHead(4, 5, 3, "local").double()
    torch.testing.assert_close(local(x), head_by_hand(local, x))
    assert torch.isfinite(local(x[:1])).all()


def test_start_is_as_published() -> None:
    """About 2 for random directions; ln(8B - 1) and a bit for random embeddings."""
    setup = make_setup(classes=10, d_s=64, d_t=64, samples=200, views=4)
    case = make_case(setup, 32, dtype=torch.float32)
    for network in (case.student, case.teacher):
        network.pooled = torch.randn_like(network.pooled)
    assert 1.8 < case.part(build({"type": "mlkd.alignment"}, setup, torch.float32)).detach() < 2.2
    start = case.part(build({"type": "mlkd.supervised"}, setup, torch.float32)).detach()
    assert 0 < start - math.log(8 * 32 - 1) < 2


def test_parts_stand_alone() -> None:
    names = {"mlkd", "mlkd.alignment", "mlkd.correlation", "mlkd.supervised"}
    assert names <= set(methods())
    assert {methods()[name].provenance for name in names} == {"author-code"}


def test_only_the_directions_of_the_teacher_matter() -> None:
    setup = make_setup(views=4)
    for params in ({"type": "mlkd.alignment"}, {"type": "mlkd.correlation"}):
        case, objectives = make_case(setup, 4), build(params, setup)
        before = case.part(objectives)
        case.teacher = mapped(case.teacher, lambda x: 5 * x)
        torch.testing.assert_close(case.part(objectives), before)
