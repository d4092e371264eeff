from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdray.errors import ConfigError
from kdray.models.outputs import ModelInfo
from kdray.objectives import ObjectiveSet, bank_bytes
from kdray.objectives import crcd as crcd_module
from kdray.objectives.crcd import CRCD, relation_scores
from kdray.objectives.draws import row_keys
from kdray.objectives.relation import anchor_rows

from .cases import STEP, Case, build, make_case, make_setup, mapped

BASE: dict[str, Any] = {"type": "crcd", "dim": 7, "bank_samples": 6, "anchors": 3}


def member(objectives: ObjectiveSet) -> CRCD:
    (one,) = objectives.members.values()
    assert isinstance(one, CRCD)
    return one


def norm(x: Tensor) -> Tensor:
    return x / x.norm().clamp_min(1e-8)


def parts(case: Case, one: CRCD) -> dict[str, Tensor]:
    teacher = mapped(case.teacher, Tensor.detach)
    return one(case.targets, case.student, teacher, case.student_head, case.teacher_head, STEP)


def embeddings(case: Case, one: CRCD, source: str) -> tuple[list[Tensor], list[Tensor]]:
    """Rows of student and teacher, one at a time: the gradient by autograd, of each row's own cross-entropy."""
    result = []
    for outputs, head, project in (
        (case.student, case.student_head, one.embed_student[source]),
        (mapped(case.teacher, Tensor.detach), case.teacher_head, one.embed_teacher[source]),
    ):
        rows = []
        for x, z, y in zip(outputs.pooled, outputs.logits, case.targets.row_labels.tolist(), strict=True):
            if source == "gradient":
                target = torch.zeros_like(z)
                target[y] = 1.0
                x = head.weight.T @ ((z / one.options.gradient_temperature).softmax(dim=0) - target)
            rows.append(norm(project.weight @ norm(x)))
        result.append(rows)
    return result[0], result[1]


def loops(case: Case, one: CRCD, log_z: list[float] | None) -> tuple[dict[str, Tensor], list[float]]:
    """The parts, and log Z of every direction (fixed here where it is None)."""
    options, index = one.options, case.targets.row_index.tolist()
    keys = row_keys(case.targets.index, case.targets.views)
    anchors = [index[j] for j in anchor_rows(keys, options.anchors, STEP).tolist()]
    drawn, _ = one._drawn(case.targets, keys, STEP)
    n, noise, eps = one.sampler.samples, options.bank_samples / one.sampler.samples, 1e-7
    values, found = {}, []
    for source in one.sources:
        u, v = embeddings(case, one, source)
        values[source] = case.student_pooled.new_zeros(())
        for rows, bank in ((u, one.banks[f"{source}_teacher"]), (v, one.banks[f"{source}_student"])):
            memory = bank.vectors.clone()
            scores = []  # (is positive, exp(score))
            pairs = 0
            for i, sample in enumerate(index):
                for anchor in anchors:
                    if anchor == sample:
                        continue
                    pairs += 1
                    difference = rows[i] - memory[anchor]
                    relation = difference / (difference @ difference + 1e-4).sqrt()
                    for k, other in enumerate(drawn[i].tolist()):
                        if other != anchor:
                            reference = norm(memory[other] - memory[anchor])
                            scores.append((k == 0, (relation @ reference / options.temperature).exp()))
            z = n * np.mean([s.item() for _, s in scores]) if log_z is None else math.exp(log_z[len(found)])
            found.append(math.log(z))
            for positive, score in scores:
                q = score / z
                h = (q if positive else noise) / (q + noise + eps)
                values[source] = values[source] - h.log() / pairs
    return values, found


FORMS: list[dict[str, Any]] = [
    {},
    {"anchors": "batch", "negatives": "all", "temperature": 0.5},
    {"source": "feature", "bank_samples": 25},
    {"source": "gradient", "gradient_temperature": 4.0},
]


@pytest.mark.parametrize("rows,views,chunk", [(2, 1, 1 << 27), (5, 1, 1 << 27), (5, 1, 1), (3, 2, 1 << 27)])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_equals_loops(form: dict[str, Any], rows: int, views: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In value and gradient, on the batch that fixes Z and on the next, whole and row by row."""
    monkeypatch.setattr(crcd_module, "_CHUNK_BYTES", chunk)
    setup = make_setup(classes=3, samples=20, views=views)
    objectives = build({**BASE, **form}, setup)
    one, log_z = member(objectives), None
    for seed in (0, 1):
        case = make_case(setup, rows, seed=seed)
        theirs, log_z = loops(case, one, log_z)  # before ours, which moves the banks
        ours = parts(case, one)
        assert one.log_z.tolist() == pytest.approx(log_z)
        torch.testing.assert_close(ours, theirs)
        leaves = [case.student_pooled, *objectives.parameters()]
        if rows * views > 2:
            torch.testing.assert_close(
                *(torch.autograd.grad(sum(x.values()), leaves, retain_graph=True) for x in (ours, theirs))
            )


def test_relation_scores_never_make_the_relations_of_the_vectors() -> None:
    random = torch.Generator().manual_seed(0)

    def units(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=random)
        return x / x.norm(dim=-1, keepdim=True)

    rows, vectors, anchors = units(4, 128), units(4, 50, 128), units(5, 128)
    relations, references = rows[:, None] - anchors[None], vectors[:, None] - anchors[None, :, None]
    cosines = torch.nn.functional.cosine_similarity(relations[:, :, None], references, dim=3)
    squares = relations.square().sum(dim=2)[:, :, None]
    cosines = cosines * (squares / (squares + 1e-4)).sqrt()
    torch.testing.assert_close(relation_scores(rows, vectors, anchors), cosines, atol=2e-6, rtol=1e-5)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        relation_scores(rows, vectors, anchors)
    assert largest <= 4 * 50 * 128


def test_an_anchors_own_relations_count_for_nothing() -> None:
    """The degenerate relation of a sample to itself; in float32 its length is rounding."""
    anchors = torch.nn.functional.normalize(torch.randn(3, 16), dim=1)
    rows = anchors.clone().requires_grad_()
    scores = relation_scores(rows, anchors[:, None].expand(3, 2, 16), anchors)
    assert torch.equal(scores.diagonal(), torch.zeros(2, 3))
    scores.sum().backward()
    assert rows.grad.isfinite().all()


def test_banks_follow_the_rows_of_their_own_network() -> None:
    setup = make_setup()
    case, objectives = make_case(setup, 6), build({**BASE, "momentum": 0.3}, setup)
    one = member(objectives)
    before = {name: bank.vectors.clone() for name, bank in one.banks.items()}
    parts(case, one)
    for source in ("feature", "gradient"):
        for rows, network in zip(embeddings(case, one, source), ("student", "teacher"), strict=True):
            expected = before[f"{source}_{network}"].clone()
            for row, i in zip(rows, case.targets.index.tolist(), strict=True):
                expected[i] = norm(0.3 * expected[i] + 0.7 * row.detach())
            torch.testing.assert_close(one.banks[f"{source}_{network}"].vectors, expected)


def test_value_where_all_scores_are_alike() -> None:
    """ln(1 + K) + 1 per direction, as in CRD: four directions, each a mean over pairs."""
    setup = make_setup(classes=10, samples=400)
    objectives = build({**BASE, "bank_samples": 50, "temperature": 1e4, "anchors": "batch"}, setup)
    values = parts(make_case(setup, 6), member(objectives))
    for value in values.values():
        # Negatives that are the anchor itself are left out: at most one or two of a row's fifty.
        assert value.item() == pytest.approx(2 * (math.log(51) + 1), abs=0.1)


def test_parts_are_weighted_and_added_not_multiplied() -> None:
    """The released code adds alpha * KL * gradient part, a product, where a sum is meant."""
    setup = make_setup()
    report = make_case(setup, 6).run(build({**BASE, "gradient_weight": 0.3, "weight": 2}, setup))
    assert report.weights == {"one.feature": 2.0, "one.gradient": pytest.approx(0.6)}
    torch.testing.assert_close(report.total, 2 * report.parts["one.feature"] + 0.6 * report.parts["one.gradient"])


def test_only_heads_with_a_gradient_in_closed_form_are_taken() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.one\.source: the student small .* Set it to feature"):
        build(BASE, make_setup(linear_head=False))
    setup = replace(make_setup(), teacher=ModelInfo("moco", num_classes=None, pooled_dim=9, linear_head=False))
    case = make_case(make_setup())
    case.teacher.logits = None
    assert torch.isfinite(case.run(build({**BASE, "source": "feature"}, setup)).total)


def test_bank_bytes_count_every_bank() -> None:
    setup = make_setup()
    sizes = bank_bytes({"both": BASE, "one": {**BASE, "source": "feature"}}, setup)
    assert sizes == {"both": 4 * 60 * 7 * 4 + 60 * 16, "one": 2 * 60 * 7 * 4 + 60 * 16}
