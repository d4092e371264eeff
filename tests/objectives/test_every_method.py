"""What holds for every objective, whatever its formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdray.models.outputs import Outputs
from kdray.objectives import ObjectiveSet, list_methods, methods, needs

from .cases import (
    DETACHED,
    EVERY,
    STEP,
    Case,
    build,
    case_id,
    make_case,
    make_setup,
    mapped,
    network_outputs,
    permuted,
    repeated,
    views_of,
)

every = pytest.mark.parametrize("params", EVERY, ids=case_id)


def test_cases_cover_every_registered_method() -> None:
    assert {params["type"] for params in EVERY} == set(methods())


def test_no_two_forms_share_an_id() -> None:
    """Results of two workers are told apart by it."""
    assert len({case_id(params) for params in EVERY}) == len(EVERY)


def test_every_method_says_where_it_comes_from() -> None:
    cards = Path(__file__).parents[2] / "docs" / "methods"
    for row in list_methods():
        assert row.provenance in ("author-code", "paper", "reconstruction")
        assert row.source and row.family and row.summary
        card = (cards / f"{row.name.partition('.')[0]}.md").read_text(encoding="utf-8")
        assert row.provenance in card and f"`{row.name}`" in card


def test_clmkd_is_never_called_more_than_a_reconstruction() -> None:
    assert {row.provenance for row in list_methods() if row.name.startswith("clmkd")} == {"reconstruction"}


@every
def test_gradient_reaches_student_and_heads_and_never_the_teacher(params: dict[str, Any]) -> None:
    setup = make_setup(views=views_of(params))
    case, objectives = make_case(setup, 8), build(params, setup)
    report = case.run(objectives)
    report.total.backward()
    assert case.student_pooled.grad is not None and case.student_pooled.grad.abs().sum() > 0
    assert case.teacher_pooled.grad is None
    assert case.teacher_head.weight.grad is None
    for name, parameter in objectives.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("params", [form for form in EVERY if form not in DETACHED], ids=case_id)
def test_gradient_is_that_of_finite_differences(params: dict[str, Any]) -> None:
    setup = make_setup(views=views_of(params))
    case, objectives = make_case(setup, 6), build(params, setup)

    def loss(pooled: torch.Tensor) -> torch.Tensor:
        case.student = network_outputs(setup.student, pooled, case.student_head)
        total = case.run(objectives).total
        for name, buffer in objectives.named_buffers():
            buffer.copy_(state.get(name, buffer))
        return total

    state: dict[str, torch.Tensor] = {}
    loss(case.student_pooled)  # constants are fixed by a first batch
    state = {name: buffer.clone() for name, buffer in objectives.named_buffers()}
    torch.autograd.gradcheck(loss, (case.student_pooled.detach().requires_grad_(),), fast_mode=True)


@every
def test_order_of_rows_does_not_matter(params: dict[str, Any]) -> None:
    setup = make_setup(views=views_of(params))
    case = make_case(setup, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    one, other = build(params, setup), build(params, setup)
    torch.testing.assert_close(case.run(one).total, permuted(case, order).run(other).total)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), equal_nan=True)


def edge_cases(views: int = 1) -> dict[str, tuple[Any, list[int] | None]]:
    spread = np.arange(60) % 5
    held_out = np.where(np.arange(60) % 3 == 0, -1, spread)
    return {
        "one sample per class": (make_setup(views=views, labels=spread), [0, 1, 2, 3, 4]),
        "a single class": (make_setup(views=views, labels=spread), [0, 5, 10, 15]),
        "a single row": (make_setup(views=views, labels=spread), [7]),
        "one sample in four slots": (make_setup(views=views, labels=spread), [7, 7, 7, 7]),
        "two classes": (make_setup(views=views, classes=2, labels=np.arange(40) % 2), [0, 1, 2, 3, 4, 5]),
        "one class in all the data": (make_setup(views=views, labels=np.zeros(30, dtype=np.int64)), [0, 1, 2]),
        "classes of one sample": (make_setup(views=views, labels=np.arange(5)), [0, 1, 2]),
        "held-out samples": (make_setup(views=views, labels=held_out), [1, 2, 4, 5]),
    }


@every
@pytest.mark.parametrize("edge", edge_cases())
def test_edges_stay_finite(params: dict[str, Any], edge: str) -> None:
    setup, index = edge_cases(views_of(params))[edge]
    case, objectives = make_case(setup, index=index), build(params, setup)
    for _ in range(2):
        report = case.run(objectives)
        report.total.backward(retain_graph=True)
        assert torch.isfinite(report.total)
        assert case.student_pooled.grad is not None and torch.isfinite(case.student_pooled.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in objectives.parameters() if p.grad is not None)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_ten_thousand_stay_finite(params: dict[str, Any], dtype: torch.dtype) -> None:
    setup = make_setup(views=views_of(params))
    case, objectives = make_case(setup, 8, dtype=dtype), build(params, setup, dtype)
    shape = case.student.logits.shape
    signs = torch.where(torch.arange(shape.numel()).reshape(shape) % 3 == 0, 1e4, -1e4).to(dtype)
    case.student.logits = signs + 0 * case.student.logits
    case.teacher.logits = -signs
    report = case.run(objectives)
    report.total.backward()
    assert torch.isfinite(report.total) and torch.isfinite(case.student_pooled.grad).all()


@every
def test_dead_features_stay_finite(params: dict[str, Any]) -> None:
    setup = make_setup(views=views_of(params))
    case, objectives = make_case(setup, 8), build(params, setup)
    zero = torch.zeros_like(case.student_pooled).requires_grad_()
    case.student = network_outputs(setup.student, zero, case.student_head)
    case.run(objectives).total.backward()
    assert zero.grad is not None and torch.isfinite(zero.grad).all() and zero.grad.abs().max() < 1e4


@every
def test_bfloat16_autocast_changes_nothing_inside(params: dict[str, Any]) -> None:
    setup = make_setup(views=views_of(params))
    case, objectives = make_case(setup, 8, dtype=torch.float32), build(params, setup, torch.float32)
    again = build(params, setup, torch.float32)

    def outputs(x: Outputs, as_type: torch.dtype) -> Outputs:
        return mapped(x, lambda y: y.to(torch.bfloat16).to(as_type))

    low = replace(case, student=outputs(case.student, torch.bfloat16), teacher=outputs(case.teacher, torch.bfloat16))
    high = replace(case, student=outputs(case.student, torch.float32), teacher=outputs(case.teacher, torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = low.run(objectives)
    assert report.total.dtype == torch.float32
    assert torch.equal(report.total, high.run(again).total)
    report.total.backward()
    assert torch.isfinite(case.student_pooled.grad).all()


@every
def test_float32_is_near_float64(params: dict[str, Any]) -> None:
    setup = make_setup(views=views_of(params))
    one = make_case(setup, 8, dtype=torch.float32).run(build(params, setup, torch.float32)).total
    two = make_case(setup, 8, dtype=torch.float64).run(build(params, setup, torch.float64)).total
    torch.testing.assert_close(one.double(), two, rtol=2e-4, atol=2e-4)


@every
def test_float32_heads_take_float64_inputs(params: dict[str, Any]) -> None:
    setup = make_setup(views=views_of(params))
    assert make_case(setup, 8).run(build(params, setup, torch.float32)).total.dtype == torch.float64


@every
def test_state_survives_a_checkpoint_exactly(params: dict[str, Any], tmp_path: Path) -> None:
    setup = make_setup(views=views_of(params))
    first, second = (make_case(setup, 8, dtype=torch.float32, seed=seed) for seed in (1, 2))
    straight = build(params, setup, torch.float32)
    first.run(straight)
    torch.save(straight.state_dict(), tmp_path / "state.pt")
    resumed = ObjectiveSet({"one": params}, replace(setup, seed=99))
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    step = replace(STEP, step=STEP.step + 1)
    assert torch.equal(second.run(straight, step).total, second.run(resumed, step).total)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def plain_mean(params: dict[str, Any]) -> bool:
    """Whether this form is a mean over rows (or over pairs or columns that equal rows add nothing to).

    The others count pairs, candidates or samples of the batch, of which two views have more.
    """
    logits = params["type"] in ("ce", "ckd", "ctkd", "dkd", "kd", "mcld.category", "nkd")
    features = params["type"] in (
        "at",
        "fitnet",
        "mlkd.alignment",
        "nst",
        "ofd",
        "review",
        "rkd",
        "simkd",
        "srrl",
        "vid",
    )
    forms = params.get("form") in ("align", "centroid_kl") or params.get("attend") == "pooled"
    return logits or features or forms


@pytest.mark.parametrize("params", [form for form in EVERY if plain_mean(form)], ids=case_id)
def test_two_equal_views_are_one_view(params: dict[str, Any]) -> None:
    results = []
    for views, change in ((1, replace), (2, repeated)):
        setup = make_setup(views=views)
        case = make_case(make_setup(), 8)
        total = change(case).run(build(params, setup)).total
        results.append((total, *torch.autograd.grad(total, case.student_pooled)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("params", [form for form in EVERY if not plain_mean(form)], ids=case_id)
def test_views_that_differ_give_a_finite_loss_and_a_gradient(params: dict[str, Any]) -> None:
    setup = make_setup(views=max(2, views_of(params)))
    case, objectives = make_case(setup, 8), build(params, setup)
    report = case.run(objectives)
    report.total.backward()
    assert torch.isfinite(report.total) and torch.isfinite(case.student_pooled.grad).all()
    assert case.student_pooled.grad.abs().sum() > 0


@every
def test_nothing_waits_for_the_device(params: dict[str, Any]) -> None:
    """On the meta device there are no values: reading one, or a shape that depends on one, raises."""
    setup = make_setup(views=views_of(params))
    case = make_case(setup, 8, dtype=torch.float32)
    (member,) = build(params, setup, torch.float32).to("meta").members.values()

    def meta(x: Outputs) -> Outputs:
        return mapped(x, lambda y: y.to("meta"))

    targets = replace(case.targets, labels=case.targets.labels.to("meta"), index=case.targets.index.to("meta"))
    heads = case.student_head.to("meta"), case.teacher_head.to("meta")
    parts = member(targets, meta(case.student), meta(case.teacher), *heads, STEP)
    assert all(part.device.type == "meta" and part.shape == () for part in parts.values())


@every
def test_needs_cover_what_is_read(params: dict[str, Any]) -> None:
    """What a method does not declare may be missing."""
    setup = make_setup(views=views_of(params))
    wanted = needs({"one": params})
    if not wanted.labels:
        setup = replace(setup, labels=None)
    case, objectives = make_case(make_setup(views=setup.views), 8), build(params, setup)
    if not wanted.stages:
        case.student.stages = case.teacher.stages = []
    if not wanted.preact:
        case.student.preact = case.teacher.preact = []
    if wanted.teacher and not wanted.teacher_logits:
        case.teacher.logits = None
    if not wanted.teacher_pooled:
        case.teacher.pooled = torch.full_like(case.teacher.pooled, torch.nan)
    if not wanted.index:
        case = Case(**{**vars(case), "targets": replace(case.targets, index=torch.full_like(case.targets.index, -1))})
    teacher = case.teacher if wanted.teacher else None
    heads = case.student_head, case.teacher_head
    assert torch.isfinite(objectives(case.targets, case.student, teacher, *heads, STEP).total)
