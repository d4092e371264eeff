"""Spreads, intervals and p values, against numbers worked out elsewhere and against scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from kdray.report.significance import Spread, bootstrap, holm, t_test


def test_a_spread_is_mean_and_sample_deviation() -> None:
    assert Spread.of([1.0, 2.0, 6.0]) == Spread(3, 3.0, pytest.approx(7**0.5))
    assert Spread.of([4.0]) == Spread(1, 4.0, None)
    assert Spread.of([]) is None


@pytest.mark.parametrize("differences", [[1.0, 2.0, 4.0], [-0.1, 0.2, 0.05, -0.3], [5.0, 5.1, 4.9, 5.05, 5.0]])
def test_the_t_test_is_scipys(differences: list[float]) -> None:
    expected = stats.ttest_rel(differences, [0.0] * len(differences)).pvalue
    assert t_test(differences) == pytest.approx(expected, rel=1e-9)


def test_differences_that_do_not_vary_have_no_p() -> None:
    assert t_test([0.3, 0.1 + 0.2, 0.3]) is None


def test_the_bootstrap_is_that_of_all_resamples() -> None:
    differences = [0.2, 1.0, 1.5, -0.4]
    means = [np.mean(drawn) for drawn in itertools.product(differences, repeat=4)]
    low, high = bootstrap(differences)
    assert (low, high) == (
        pytest.approx(np.percentile(means, 2.5), abs=0.05),
        pytest.approx(np.percentile(means, 97.5), abs=0.05),
    )
    assert bootstrap(differences) == (low, high)  # the same every time


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []
