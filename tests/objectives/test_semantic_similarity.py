from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdray.models.outputs import Outputs
from kdray.objectives import ObjectiveSet, bank_bytes, needs, normalise, parse
from kdray.objectives.clmkd.semantic_similarity import SemanticSimilarity

from .cases import STEP, build, make_case, make_setup

BASE: dict[str, Any] = {"type": "clmkd.semantic_similarity"}


def member(objectives: ObjectiveSet) -> SemanticSimilarity:
    (one,) = objectives.members.values()
    assert isinstance(one, SemanticSimilarity)
    return one


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def softmax(values: list[Tensor]) -> list[Tensor]:
    total = sum((v.exp() for v in values), start=torch.zeros((), dtype=values[0].dtype))
    return [v.exp() / total for v in values]


def kl(p: list[Tensor], q: list[Tensor]) -> Tensor:
    return sum((a * (a.log() - b.log()) for a, b in zip(p, q, strict=True)), start=torch.zeros((), dtype=p[0].dtype))


def gram_kl_loops(s: Tensor, t: Tensor, tau: float) -> Tensor:
    total = s.new_zeros(())
    for i in range(len(s)):
        others = [j for j in range(len(s)) if j != i]
        total = total + kl(
            softmax([cosine(t[i], t[j]) / tau for j in others]), softmax([cosine(s[i], s[j]) / tau for j in others])
        )
    return total / len(s)


def sp_loops(s: Tensor, t: Tensor) -> Tensor:
    total = s.new_zeros(())
    for i in range(len(s)):
        a = torch.stack([t[i] @ t[j] for j in range(len(s))])
        b = torch.stack([s[i] @ s[j] for j in range(len(s))])
        total = total + ((a / a.norm() - b / b.norm()) ** 2).sum()
    return total / len(s) ** 2


def gradients(value: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, leaves, retain_graph=True)


@pytest.mark.parametrize("rows,views", [(2, 1), (7, 1), (3, 2)])
@pytest.mark.parametrize("tau", [0.5, 0.1])
def test_gram_kl_equals_loops(rows: int, views: int, tau: float) -> None:
    setup = make_setup(views=views)
    case = make_case(setup, rows)
    ours = case.part(build({**BASE, "temperature": tau}, setup))
    theirs = gram_kl_loops(case.student_pooled, case.teacher_pooled.detach(), tau)
    torch.testing.assert_close(ours, theirs)
    if rows * views > 2:
        torch.testing.assert_close(gradients(ours, case.student_pooled), gradients(theirs, case.student_pooled))


@pytest.mark.parametrize("rows,views", [(1, 1), (7, 1), (3, 2)])
@pytest.mark.parametrize("maps", [False, True])
def test_sp_equals_loops(rows: int, views: int, maps: bool) -> None:
    setup = make_setup(views=views)
    case = make_case(setup, rows)
    ours = case.part(build({**BASE, "form": "sp", "maps": maps}, setup))
    s, t = case.student_pooled, case.teacher_pooled.detach()
    if maps:
        s, t = case.student.stages[-1].flatten(1), case.teacher.stages[-1].flatten(1).detach()
    theirs = sp_loops(s, t)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, case.student_pooled), gradients(theirs, case.student_pooled))


def test_centroid_kl_equals_loops_over_several_batches() -> None:
    setup = make_setup()
    objectives = build({**BASE, "form": "centroid_kl", "momentum": 0.6, "temperature": 0.2}, setup)
    centroids: list[dict[int, Tensor]] = [{}, {}]
    for seed in range(3):
        case = make_case(setup, 4, seed=seed)
        rows, labels = (case.student_pooled, case.teacher_pooled.detach()), case.targets.labels.tolist()
        for x, known in zip(rows, centroids, strict=True):
            for c in set(labels):
                mine = [y.detach() / y.detach().norm() for y, label in zip(x, labels, strict=True) if label == c]
                mean = torch.stack(mine).mean(dim=0)
                moved = 0.6 * known[c] + 0.4 * mean if c in known else mean
                known[c] = moved / moved.norm()
        theirs, classes = case.student_pooled.new_zeros(()), sorted(centroids[0])
        for s, t in zip(*rows, strict=True):
            p = softmax([cosine(t, centroids[1][c]) / 0.2 for c in classes])
            q = softmax([cosine(s, centroids[0][c]) / 0.2 for c in classes])
            theirs = theirs + kl(p, q) / len(labels)
        ours = case.part(objectives)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(gradients(ours, case.student_pooled), gradients(theirs, case.student_pooled))
    assert member(objectives).seen.tolist() == [c in centroids[0] for c in range(5)]


def test_centroids_may_move_before_the_backward_pass() -> None:
    setup = make_setup()
    objectives, cases = build({**BASE, "form": "centroid_kl"}, setup), [make_case(setup, seed=seed) for seed in (0, 1)]
    again = build({**BASE, "form": "centroid_kl"}, setup)
    parts = [case.part(objectives) for case in cases]
    expected = gradients(cases[0].part(again), cases[0].student_pooled)
    torch.testing.assert_close(gradients(parts[0], cases[0].student_pooled), expected)


@pytest.mark.parametrize("hidden", [None, 4])
def test_align_equals_loops(hidden: int | None) -> None:
    setup = make_setup()
    case, objectives = make_case(setup, 5), build({**BASE, "form": "align", "hidden": hidden}, setup)
    first, _, last = member(objectives).mlp
    assert first.out_features == (hidden or 9)
    theirs = case.student_pooled.new_zeros(())
    for s, t in zip(case.student_pooled, case.teacher_pooled.detach(), strict=True):
        z = last.weight @ (first.weight @ s + first.bias).relu() + last.bias
        theirs = theirs + (1 - cosine(z, t)) / 5
    ours = case.part(objectives)
    torch.testing.assert_close(ours, theirs)
    leaves = [case.student_pooled, *objectives.parameters()]
    torch.testing.assert_close(gradients(ours, *leaves), gradients(theirs, *leaves))


def test_float32() -> None:
    setup = make_setup()
    case = make_case(setup, 6, dtype=torch.float32)
    s, t = case.student_pooled, case.teacher_pooled.detach()
    torch.testing.assert_close(case.part(build(BASE, setup, torch.float32)), gram_kl_loops(s, t, 0.5))
    torch.testing.assert_close(case.part(build({**BASE, "form": "sp"}, setup, torch.float32)), sp_loops(s, t))


@pytest.mark.parametrize("form", ["gram_kl", "sp", "centroid_kl"])
def test_zero_at_the_teacher_and_at_its_multiples(form: str) -> None:
    setup = make_setup(d_s=9, d_t=9)
    case = make_case(setup, 6)
    case.student = Outputs(case.teacher.logits, 2.0 * case.teacher.pooled)
    for step in range(2):
        part = case.part(build({**BASE, "form": form}, setup), replace(STEP, step=step))
        assert part.item() == pytest.approx(0.0, abs=1e-12)
        (gradient,) = torch.autograd.grad(part, case.teacher_pooled, retain_graph=True)
        assert gradient.abs().max() < 1e-7


def test_weight_and_temperature_follow_the_form() -> None:
    forms = ("gram_kl", "sp", "centroid_kl", "align")
    options = [parse({"x": {**BASE, "form": form}})[0].options for form in forms]
    assert [o.weight for o in options] == [10, 3000, 1, 20]
    assert [o.temperature for o in options[:3:2]] == [0.5, 0.07]
    assert parse({"x": {**BASE, "form": "sp", "weight": 7}})[0].options.weight == 7
    said, unsaid = ({**BASE, "form": "sp", "weight": w} for w in (3000, None))
    assert normalise({"x": said}) == normalise({"x": unsaid})


def test_only_maps_need_stages() -> None:
    assert needs({"x": {**BASE, "form": "sp", "maps": True}}).stages
    assert not needs({"x": {**BASE, "form": "gram_kl", "maps": True}}).stages


def test_bank_bytes_are_the_centroids() -> None:
    setup = make_setup()
    one = member(build({**BASE, "form": "centroid_kl"}, setup, torch.float32))
    held = sum(b.numel() * b.element_size() for b in one.buffers())
    assert bank_bytes({"x": {**BASE, "form": "centroid_kl"}, "y": BASE}, setup) == {"x": held}
