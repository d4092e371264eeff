"""The cache of every class's latest rows: what it holds, how entries age, what it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kdray.objectives import ObjectiveSet, bank_bytes
from kdray.objectives.intra_class import confidence_margin
from kdray.objectives.intra_class.cache import ClassCache

from .cases import make_case, make_setup
from .intra_class_cases import build, run, trained


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
