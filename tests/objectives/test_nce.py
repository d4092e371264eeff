from __future__ import annotations

import math

import pytest
import torch

from kdray.objectives.nce import EPS, log_partition, noise_contrast


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)], ids=str)
def test_value_and_gradient_are_those_of_the_formula(shape: tuple[int, ...]) -> None:
    scores = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    log_z, noise, p = torch.tensor(1.3, dtype=torch.float64), 0.4, 2
    weights = torch.rand(*shape, dtype=torch.float64)
    weights[..., -1] = 0.0  # an empty slot
    total = torch.zeros((), dtype=torch.float64)
    for score, weight in zip(scores.reshape(-1, 5), weights.reshape(-1, 5), strict=True):
        for k in range(5):
            q = score[k].exp() / log_z.exp()
            h = (q if k < p else noise) / (q + noise + EPS)
            total = total - weight[k] * h.log()
    value, slope = noise_contrast(scores.detach(), log_z, noise, weights[..., :p], weights[..., p:])
    torch.testing.assert_close(value, total.detach())
    torch.testing.assert_close(slope, torch.autograd.grad(total, scores)[0])


def test_scores_beyond_exp_stay_finite() -> None:
    scores, ones = torch.tensor([[1e4, -1e4, 1e4, -1e4]]), torch.ones(1, 2)
    value, slope = noise_contrast(scores, torch.tensor(0.0), 0.1, ones, ones)
    assert value.isfinite() and slope.isfinite().all()


def test_partition_is_n_times_the_mean_over_used_slots() -> None:
    scores = torch.randn(2, 3, 4, dtype=torch.float64)
    used = torch.rand(3, 4) > 0.4
    expected = [30 * sum(math.exp(x) for x in one[used].tolist()) / int(used.sum()) for one in scores]
    torch.testing.assert_close(log_partition(scores, used, 30).exp(), torch.tensor(expected, dtype=torch.float64))
    each = torch.rand(2, 3, 4) > 0.4
    expected = [30 * sum(map(math.exp, s[m].tolist())) / int(m.sum()) for s, m in zip(scores, each, strict=True)]
    torch.testing.assert_close(log_partition(scores, each, 30).exp(), torch.tensor(expected, dtype=torch.float64))
