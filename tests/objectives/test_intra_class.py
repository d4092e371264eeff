from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdray.errors import ConfigError
from kdray.objectives import ObjectiveSet, Setup, bank_bytes, list_methods, needs, normalise, parse
from kdray.objectives.intra_class import DIAGNOSTICS, confidence_margin, intra_contrast
from kdray.objectives.intra_class.cache import ClassCache
from kdray.objectives.intra_class.spread import softened_entropy, spread, sums_of_cache, sums_of_rows

from .cases import STEP, Case, make_case, make_setup

Held = list[tuple[Tensor, int, int]]
"""What a cache may hold: unit vector, label, sample."""


def run(objectives: ObjectiveSet, case: Case, step: int = 3) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss with its graph, and all parts."""
    (member,) = objectives.members.values()
    heads = case.student_head, case.teacher_head
    parts = member(case.targets, case.student, None, *heads, replace(STEP, step=step))
    assert tuple(parts) == ("loss", *DIAGNOSTICS)
    return parts["loss"], parts


def trained(setup: Setup, rows: int = 8, **options: Any) -> Case:
    """A case whose network knows some of the labels."""
    case = make_case(setup, rows, **options)
    known = torch.nn.functional.one_hot(case.targets.row_labels, setup.num_classes)
    case.student.logits = 0.3 * case.student.logits + 1.5 * known
    return case


def build(params: dict[str, Any], **setup: Any) -> ObjectiveSet:
    return ObjectiveSet({"intra_class": params}, make_setup(views=2, **setup)).double()


def margin_loops(logits: Tensor, label: int, kind: str) -> float:
    values = (logits.softmax(0) if kind == "probability" else logits).tolist()
    return values[label] - max(v for c, v in enumerate(values) if c != label)


def held(case: Case) -> Held:
    n = len(case.targets.labels)
    z = case.student_pooled.detach()[:n]
    return [(z[i] / z[i].norm(), int(case.targets.labels[i]), int(case.targets.index[i])) for i in range(n)]


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


# -- cache ------------------------------------------------------------------------------------------------------------


def push(cache: ClassCache, index: list[int], step: int, keep: list[bool] | None = None, classes: int = 3) -> None:
    """Rows [i, 2 i] with label i % classes."""
    where = torch.tensor(index)
    kept = torch.ones_like(where, dtype=torch.bool) if keep is None else torch.tensor(keep)
    rows = torch.stack([where, 2 * where], dim=1).to(cache.vectors.dtype)
    cache.push(rows, where % classes, where, where, kept, seed=0, step=step)


def test_rings_hold_the_latest_of_every_class() -> None:
    """Against a list per class, over many steps; only the order within a step is the cache's own."""
    random, cache, size = np.random.default_rng(0), ClassCache(3, 4, 2), 4
    rings: list[list[set[int]]] = [[], [], []]
    for step in range(40):
        index = random.choice(60, 7, replace=False).tolist()
        keep = (random.random(7) < 0.6).tolist()
        push(cache, index, step, keep)
        for c in range(3):
            rings[c].append({i for i, k in zip(index, keep, strict=True) if k and i % 3 == c})
            ring = sorted(cache.index[c][cache.index[c] >= 0].tolist())
            left, expected = min(size, sum(map(len, rings[c]))), []
            for batch in reversed(rings[c]):
                if len(batch) > left:  # some of these, by draw
                    rest = sorted(ring)
                    for i in expected:
                        rest.remove(i)
                    assert len(rest) == left and set(rest) <= batch
                    expected = ring
                    break
                expected += sorted(batch)
                left -= len(batch)
            assert ring == sorted(expected)
            assert cache.head[c].item() == sum(map(len, rings[c])) % size
    filled = cache.index >= 0
    assert torch.equal(cache.vectors[filled], torch.stack([cache.index, 2 * cache.index], dim=2)[filled].float())


def test_rows_of_one_class_take_consecutive_slots_in_an_order_of_their_own() -> None:
    one, two = ClassCache(3, 8, 2), ClassCache(3, 8, 2)
    push(one, [3, 6, 9, 12, 1], 5)
    push(two, [1, 12, 9, 6, 3], 5)
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))
    assert sorted(one.index[0, :4].tolist()) == [3, 6, 9, 12] and one.index[0, 4:].tolist() == [-1] * 4
    assert one.head.tolist() == [4, 1, 0]


def test_entries_age() -> None:
    cache = ClassCache(3, 2, 2)
    push(cache, [0], 10)
    push(cache, [3], 12)
    assert cache.filled(13, None)[0].tolist() == [True, True]
    assert cache.filled(13, 2)[0].tolist() == [False, True]
    assert cache.filled(13, 3)[0].tolist() == [True, True]


def test_an_entry_beyond_its_age_is_no_negative() -> None:
    setup = make_setup(views=2, labels=np.zeros(60, dtype=np.int64))
    first, second = make_case(setup, index=[0, 1]), make_case(setup, index=[2], seed=1)
    for step, known in ((9, 1.0), (10, 0.0)):
        objectives = build({"delta": -1, "max_age": 4}, labels=setup.labels)
        run(objectives, first, step=5)
        assert run(objectives, second, step=step)[1]["anchors"].item() == known


def test_anchors_only_leaves_the_others_out() -> None:
    case = trained(make_setup(views=2), 12)
    (member,) = (objectives := build({"push": "anchors", "delta": 0.2})).members.values()
    run(objectives, case)
    confident = confidence_margin(case.student.logits[:12], case.targets.labels) > 0.2
    kept = sorted(i for i in member.cache.index.flatten().tolist() if i >= 0)
    assert kept == sorted(case.targets.index[confident].tolist()) and 0 < len(kept) < 12


def test_half_the_bytes_for_nearly_the_same_scores() -> None:
    one, two = ClassCache(2, 5, 8), ClassCache(2, 5, 8, torch.float16)
    rows = torch.nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    labels, index = torch.arange(6) % 2, torch.arange(6)
    for cache in (one, two):
        cache.push(rows, labels, index, index, torch.ones(6, dtype=torch.bool), seed=0, step=0)
    assert two.vectors.dtype == torch.float16
    torch.testing.assert_close(two.scores(rows, labels), one.scores(rows, labels), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "options", [{}, {"storage": "float16"}, {"cache": 0}, {"head": "mlp", "dim": 7, "cache": 3}], ids=str
)
def test_cache_bytes_are_those_of_the_buffers(options: dict[str, Any]) -> None:
    setup = make_setup(views=2)
    objectives = ObjectiveSet({"intra_class": options}, setup)
    size = sum(buffer.numel() * buffer.element_size() for buffer in objectives.buffers())
    assert bank_bytes({"intra_class": options}, setup) == ({"intra_class": size} if size else {})


# -- diagnostics ------------------------------------------------------------------------------------------------------


def spread_loops(groups: list[list[Tensor]]) -> tuple[float, float]:
    intra, centroids = [], []
    for group in groups:
        pairs = [1 - float(a @ b) for i, a in enumerate(group) for b in group[i + 1 :]]
        if pairs:
            intra.append(sum(pairs) / len(pairs))
        if group:
            mean = torch.stack(group).mean(dim=0)
            centroids.append(mean / mean.norm())
    inter = [1 - float(a @ b) for i, a in enumerate(centroids) for b in centroids[i + 1 :]]
    return (sum(intra) / len(intra) if intra else 0.0), (sum(inter) / len(inter) if inter else 0.0)


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1, 2], [0, 1, 2, 3], [2, 2], [4]], ids=str)
def test_distances_equal_loops(labels: list[int]) -> None:
    rows = torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = rows / rows.norm(dim=1, keepdim=True)
    groups = [[row for row, label in zip(rows, labels, strict=True) if label == c] for c in range(5)]
    intra, inter, ratio = (x.item() for x in spread(*sums_of_rows(rows, torch.tensor(labels), 5)))
    assert (intra, inter) == pytest.approx(spread_loops(groups))
    assert ratio == pytest.approx(intra / inter if inter else 0.0)


def test_distances_of_the_cache_are_those_of_what_it_holds() -> None:
    setup, objectives = make_setup(views=2), build({"delta": -1, "report_every": 1})
    cases = [make_case(setup, 9, seed=seed) for seed in range(2)]
    parts = [run(objectives, case)[1] for case in cases][-1]
    everything = [entry for case in cases for entry in held(case)]
    intra, inter = spread_loops([[v for v, label, _ in everything if label == c] for c in range(5)])
    assert parts["intra_distance"].item() == pytest.approx(intra)
    assert parts["inter_distance"].item() == pytest.approx(inter)
    assert parts["distance_ratio"].item() == pytest.approx(intra / inter)


def test_the_cache_is_looked_at_every_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first step, whatever its number, and at multiples of `report_every`; between them the last values stay,
    and they survive a checkpoint."""
    looks: list[int] = []

    def counted(*arguments: Any) -> Any:
        looks.append(step)
        return sums_of_cache(*arguments)

    monkeypatch.setattr("kdray.objectives.intra_class.sums_of_cache", counted)
    setup, objectives, seen = make_setup(views=2), build({"report_every": 4}), {}
    for step in range(2, 11):
        if step == 7:
            state, objectives = objectives.state_dict(), build({"report_every": 4})
            objectives.load_state_dict(state)
        seen[step] = run(objectives, make_case(setup, 9, seed=step), step)[1]["intra_distance"]
    assert looks == [2, 4, 8]
    values = [float(seen[step]) for step in sorted(seen)]
    assert values == [values[0]] * 2 + [values[2]] * 4 + [values[6]] * 3
    assert len(set(values)) == 3 and all(values)


def test_a_large_cache_is_summed_in_pieces() -> None:
    cache = ClassCache(300, 2, 4)
    cache.vectors.normal_(generator=torch.Generator().manual_seed(0))
    filled = torch.arange(600).reshape(300, 2) % 3 > 0
    sums, counts, squares = sums_of_cache(cache, filled, torch.float64)
    rows = cache.vectors.double() * filled[:, :, None]
    torch.testing.assert_close(sums, rows.sum(dim=1))
    torch.testing.assert_close(squares, rows.square().sum(dim=(1, 2)))
    assert torch.equal(counts, filled.sum(dim=1).double())


def test_what_is_not_defined_is_zero() -> None:
    nothing = spread(torch.zeros(3, 4), torch.zeros(3), torch.zeros(3))
    same = spread(*sums_of_rows(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]), 3))
    assert [x.item() for x in (*nothing, *same)] == [0.0] * 6


def test_entropy_is_that_of_the_softened_labels() -> None:
    logits = torch.tensor([[0.0, 4 * math.log(3)], [1e4, -1e4]])
    first = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert softened_entropy(logits, 4.0).item() == pytest.approx(first / 2)


def test_diagnostics_are_reported_and_never_added() -> None:
    case = make_case(make_setup(views=2), 12)
    report = case.run(build({"delta": -1}))
    assert set(report.parts) == {"intra_class", *(f"intra_class.{name}" for name in DIAGNOSTICS)}
    assert all(report.weights[f"intra_class.{name}"] == 0 for name in DIAGNOSTICS)
    torch.testing.assert_close(report.total, 0.02 * report.parts["intra_class"])


# -- options ----------------------------------------------------------------------------------------------------------


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
