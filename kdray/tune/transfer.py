"""What a search on a proxy says of the whole experiment: which trials to run there, and how well it ranked them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy import stats

from kdray.tune.trials import Goal, Trial


def to_check(trials: Sequence[Trial], goal: Goal, count: int) -> list[Trial]:
    """`count` trials with a value: the best half of them, and others evenly spaced over the ranks below.

    The best alone would say nothing of the proxy: their values are close to each other whatever it is worth.
    """
    ended = [trial for trial in trials if trial["value"] is not None and trial["state"] in ("done", "stopped")]
    ranked = sorted(ended, key=lambda trial: trial["value"], reverse=goal.mode == "max")
    ranked.sort(key=lambda trial: trial["state"] != "done")  # one that was stopped is worse than what went on
    best, rest = ranked[: (count + 1) // 2], ranked[(count + 1) // 2 :]
    more = min(count - len(best), len(rest))
    return best + [rest[round((i + 1) * len(rest) / more) - 1] for i in range(more)]


def _ties(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("proxy", "proxy_state"))


def rank_correlation(pairs: Sequence[dict[str, Any]], mode: str = "max") -> dict[str, Any]:
    """Spearman's rho and Kendall's tau between `proxy` and `full`, each None where fewer than three pairs differ."""
    better = 1.0 if mode == "max" else -1.0
    # One that was stopped early is worse than what went on, whatever it had reached by then.
    order = sorted(pairs, key=lambda pair: (pair["proxy_state"] == "done", better * pair["proxy"]))
    proxy = [order.index(next(one for one in order if _ties(one, pair))) for pair in pairs]
    full = [better * pair["full"] for pair in pairs]
    if len(pairs) < 3 or len(set(proxy)) < 2 or len(set(full)) < 2:
        return {"spearman": None, "kendall": None}
    return {
        "spearman": float(stats.spearmanr(proxy, full).statistic),
        "kendall": float(stats.kendalltau(proxy, full).statistic),
    }


def in_words(pairs: Sequence[dict[str, Any]], ranks: dict[str, Any]) -> str:
    """What a person should know of the proxy."""
    count = f"{len(pairs)} trial{'s' * (len(pairs) != 1)} run in full"
    if ranks["spearman"] is None:
        return f"{count}: too few to say how well the proxy ranks"
    return f"{count}, rank correlation with the proxy: Spearman {ranks['spearman']:.2f}, Kendall {ranks['kendall']:.2f}"
