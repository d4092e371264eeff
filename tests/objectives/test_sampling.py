from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.objectives.sampling import ClassSampler

WHERE = {"seed": 1, "step": 2}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=25), st.integers(1, 8), st.integers(1, 9), st.integers(0, 50))
def test_positives_and_negatives_are_what_they_are_called(
    labels: list[int], positives: int, negatives: int, step: int
) -> None:
    rows = [i for i, label in enumerate(labels) if label >= 0]
    if not rows:
        return
    sampler = ClassSampler(np.array(labels), 5)
    index = torch.tensor(rows)
    mine = torch.tensor(labels)[index]
    samples, filled = sampler.positives(index, mine, index, positives, seed=0, step=step)
    others, exist = sampler.negatives(mine, index, negatives, seed=0, step=step)
    for row, i in enumerate(rows):
        chosen = samples[row][filled[row]].tolist()
        fellows = [j for j, label in enumerate(labels) if label == labels[i]]
        assert chosen[0] == i and len(set(chosen)) == len(chosen) == min(positives, len(fellows))
        assert set(chosen) <= set(fellows)
        strangers = [j for j, label in enumerate(labels) if label not in (labels[i], -1)]
        assert bool(exist[row]) == bool(strangers)
        assert not strangers or set(others[row].tolist()) <= set(strangers)
    anyone, exist = sampler.others(index, mine, index, negatives, seed=0, step=step)
    for row, i in enumerate(rows):
        assert bool(exist[row]) == (len(rows) > 1)
        assert len(rows) == 1 or set(anyone[row].tolist()) <= set(rows) - {i}


def test_draws_are_uniform_over_what_they_may_draw() -> None:
    labels = np.array([2, 0, 1, 0, 2, 0, -1, 1, 2, 0])
    sampler = ClassSampler(labels, 3)
    keys = torch.arange(20_000)
    index, mine = torch.full_like(keys, 3), torch.zeros_like(keys)
    samples, _ = sampler.positives(index, mine, keys, 2, **WHERE)
    shares = torch.bincount(samples[:, 1], minlength=10) / 20_000
    torch.testing.assert_close(shares[[1, 5, 9]], torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    others, _ = sampler.negatives(mine, keys, 3, **WHERE)
    shares = torch.bincount(others.flatten(), minlength=10) / 60_000
    torch.testing.assert_close(shares[[0, 2, 4, 7, 8]], torch.full((5,), 0.2), atol=0.02, rtol=0)
    rest, _ = sampler.others(index, mine, keys, 3, **WHERE)
    shares = torch.bincount(rest.flatten(), minlength=10) / 60_000
    torch.testing.assert_close(shares[[0, 1, 2, 4, 5, 7, 8, 9]], torch.full((8,), 1 / 8), atol=0.02, rtol=0)
    anyone, classes = sampler.uniform(60_000, **WHERE)
    shares = torch.bincount(anyone, minlength=10) / 60_000
    torch.testing.assert_close(shares[labels >= 0], torch.full((9,), 1 / 9), atol=0.02, rtol=0)
    assert np.array_equal(classes, labels[anyone])


def test_a_class_without_samples_does_not_shift_the_others() -> None:
    labels = np.array([3, 1, 3, 1])
    sampler = ClassSampler(labels, 6)
    samples, classes = sampler.uniform(100, **WHERE)
    assert np.array_equal(classes, labels[samples])


def test_is_rebuilt_and_not_saved() -> None:
    sampler = ClassSampler(np.array([0, 1, 1]), 2)
    assert sampler.state_dict() == {}
    held = sampler.order.numel() * 8 + sampler.place.numel() * 8
    assert ClassSampler.bytes(3) == held
