"""Which of a proxy's trials run in full, and what their order says of the proxy."""

from __future__ import annotations

from typing import Any

import pytest

from kdray.tune.transfer import in_words, rank_correlation, to_check
from kdray.tune.trials import Goal, Trial, new_trial

GOAL = Goal("val/top1")


def ended(number: int, value: float | None, state: str = "done") -> Trial:
    return new_trial(number, {}, {}) | {"state": state, "value": value}


def checked(trials: list[Trial], count: int, goal: Goal = GOAL) -> list[int]:
    return [trial["number"] for trial in to_check(trials, goal, count)]


TEN = [ended(n, n / 10) for n in range(10)]


@pytest.mark.parametrize(
    "count, numbers",
    [
        (1, [9]),
        (2, [9, 0]),
        (3, [9, 8, 0]),
        (4, [9, 8, 4, 0]),
        (6, [9, 8, 7, 5, 2, 0]),
        (10, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        (50, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
    ],
)
def test_half_are_the_best_and_the_others_spread_over_the_ranks(count: int, numbers: list[int]) -> None:
    assert checked(TEN, count) == numbers


@pytest.mark.parametrize("trials", range(1, 11))
def test_no_trial_runs_twice(trials: int) -> None:
    for count in range(1, 12):
        numbers = checked(TEN[:trials], count)
        assert len(numbers) == len(set(numbers)) == min(count, trials)
        assert numbers[0] == trials - 1


def test_of_least_the_least_are_the_best() -> None:
    assert checked(TEN, 4, Goal("val/nll", "min")) == [0, 1, 5, 9]


def test_stopped_ones_rank_below_those_that_went_on() -> None:
    trials = [ended(0, 0.2), ended(1, 0.9, "stopped"), ended(2, 0.3), ended(3, 0.8, "stopped")]
    assert checked(trials, 4) == [2, 0, 1, 3]
    assert checked(trials, 1) == [2]


def test_what_has_no_value_or_failed_is_not_run() -> None:
    trials = [ended(0, None), ended(1, 0.9, "failed"), ended(2, 0.1), ended(3, 0.5, "waiting")]
    assert checked(trials, 4) == [2]
    assert checked([], 4) == []


def pairs(*values: tuple[float, float], stopped: int = -1) -> list[dict[str, Any]]:
    return [
        {"trial": n, "proxy": proxy, "proxy_state": "stopped" if n == stopped else "done", "full": full}
        for n, (proxy, full) in enumerate(values)
    ]


def test_known_rank_correlations() -> None:
    same = rank_correlation(pairs((0.1, 0.5), (0.2, 0.6), (0.3, 0.61), (0.4, 0.9)))
    assert same == {"spearman": pytest.approx(1), "kendall": pytest.approx(1)}
    turned = rank_correlation(pairs((0.1, 0.9), (0.2, 0.6), (0.3, 0.5)))
    assert turned == {"spearman": pytest.approx(-1), "kendall": pytest.approx(-1)}
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: sum of d^2 is 4, so rho = 1 - 6*4/(5*24); 2 of 10 pairs are discordant.
    mixed = rank_correlation(pairs((1, 20), (2, 10), (3, 40), (4, 30), (5, 50)))
    assert mixed == {"spearman": pytest.approx(0.8), "kendall": pytest.approx(0.6)}


def test_least_is_ranked_as_most() -> None:
    losses = pairs((1, 20), (2, 10), (3, 40), (4, 30), (5, 50))
    assert rank_correlation(losses, "min") == {"spearman": pytest.approx(0.8), "kendall": pytest.approx(0.6)}


@pytest.mark.parametrize("mode", ["max", "min"])
def test_what_the_proxy_stopped_ranks_last_whatever_it_had_reached(mode: str) -> None:
    values = [(1.0, 10.0), (2.0, 20.0), (3.0, 30.0), (9.0, 5.0)]
    if mode == "min":
        values = [(-proxy, -full) for proxy, full in values]
    assert rank_correlation(pairs(*values, stopped=3), mode) == {
        "spearman": pytest.approx(1),
        "kendall": pytest.approx(1),
    }
    assert rank_correlation(pairs(*values), mode)["spearman"] < 0.5


def test_equal_values_of_the_proxy_are_a_tie() -> None:
    # Ranks 1.5 1.5 3 against 1 2 3: Spearman is Pearson's correlation of the two.
    assert rank_correlation(pairs((1, 1), (1, 2), (2, 3)))["spearman"] == pytest.approx(0.75**0.5)


@pytest.mark.parametrize(
    "few",
    [[], [(0.1, 0.2)], [(0.1, 0.2), (0.2, 0.3)], [(0.1, 0.2), (0.1, 0.3), (0.1, 0.4)], [(0.1, 1), (0.2, 1), (0.3, 1)]],
)
def test_too_few_to_say(few: list[tuple[float, float]]) -> None:
    ranks = rank_correlation(pairs(*few))
    assert ranks == {"spearman": None, "kendall": None}
    said = in_words(pairs(*few), ranks)
    assert (
        said == f"{len(few)} trial{'' if len(few) == 1 else 's'} run in full: too few to say how well the proxy ranks"
    )


def test_in_words() -> None:
    four = pairs((1, 20), (2, 10), (3, 40), (4, 30), (5, 50))
    said = in_words(four, rank_correlation(four))
    assert said == "5 trials run in full, rank correlation with the proxy: Spearman 0.80, Kendall 0.60"
