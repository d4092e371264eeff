"""Few numbers summed up, and whether they differ from 0: what a table of several seeds needs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
NO_SPREAD = 1e-9  # differences that are as equal as this do not vary: what is left is rounding


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1; None for one) of `n` numbers."""

    n: int
    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of `values`; None of none."""
        if not values:
            return None
        return cls(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def bootstrap(differences: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of `differences`, resampled with a fixed seed."""
    values = np.asarray(differences)
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def t_test(differences: Sequence[float]) -> float | None:
    """Two-sided p of the t-test that the mean of `differences` is 0; None where they do not vary."""
    from scipy.special import stdtr

    n, sd = len(differences), statistics.stdev(differences)
    if sd < NO_SPREAD:
        return None
    t = statistics.fmean(differences) / (sd / math.sqrt(n))
    return float(2 * stdtr(n - 1, -abs(t)))


def holm(ps: Sequence[float]) -> list[float]:
    """The p values corrected by Holm's step-down method, in the order given."""
    corrected = [0.0] * len(ps)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = highest
    return corrected
