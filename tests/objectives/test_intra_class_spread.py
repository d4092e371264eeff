"""What is reported beside the intra-class loss: distances within and between classes, entropy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kdray.objectives.intra_class import DIAGNOSTICS
from kdray.objectives.intra_class.cache import ClassCache
from kdray.objectives.intra_class.spread import softened_entropy, spread, sums_of_cache, sums_of_rows

from .cases import make_case, make_setup
from .intra_class_cases import build, held, run


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
