"""Which parameters of a search mattered: shares of the variation of the trials' values.

fANOVA: Hutter, Hoos, Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014.
PED-ANOVA: Watanabe, Bansal, Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
Subspaces", IJCAI 2023.
"""

from __future__ import annotations

import logging
import math
import random
import statistics
import warnings
from typing import Any, Literal

from kdray.tune.distribution import Choices, Span, as_text, distribution

FEWEST = 8  # trials with a value below which shares are noise
TREES = 32
FEWEST_WITH = 4  # trials that must have a parameter for it to have a share
MOST = 200  # trials for fANOVA, whose time grows faster than their number: some seconds on one core


def importance(
    search: dict[str, Any], method: Literal["fanova", "pedanova"] = "fanova", seed: int = 0
) -> dict[str, float] | None:
    """Share of each parameter of a search, the largest first, together 1; None with fewer than 8 values.

    fANOVA asks for every parameter in every trial. One that a trial does not have, as those of a group's other
    alternatives, is given the value of some trial that has it: so the forest sees that it does nothing there, and it
    has no part in the difference between alternatives, which is the group's. What it does where it is there is then
    diluted by the alternatives without it, which is made good by their number (`presence`). PED-ANOVA, which says what
    sets the best tenth apart, takes parameters that are not in all trials as they are.

    A value far worse than most counts as the edge of most (Tukey's outer fence): one trial that diverged would be all
    of the variation. Of more than 200 trials fANOVA takes as many, evenly from the first to the last. The same search
    and seed give the same shares.
    """
    trials = [
        trial
        for trial in search["trials"]
        if trial["state"] in ("done", "stopped") and trial["value"] is not None and math.isfinite(trial["value"])
    ]
    if len(trials) < FEWEST:
        return None
    if method == "fanova" and len(trials) > MOST:
        trials = [trials[number * len(trials) // MOST] for number in range(MOST)]
    values = fenced([trial["value"] for trial in trials], search["mode"])
    drawn = [trial["parameters"] for trial in trials]
    seen = {
        name: [one[name] for one in drawn if name in one] for name in dict.fromkeys(n for one in drawn for n in one)
    }
    shares = dict.fromkeys(seen, 0.0)
    scales = {
        name: distribution(search["space"].get(name), some) for name, some in seen.items() if len(some) >= FEWEST_WITH
    }
    if scales and max(values) > min(values):
        if method == "fanova":
            rng = random.Random(seed)
            whole = [{name: one[name] if name in one else rng.choice(seen[name]) for name in scales} for one in drawn]
            found = _shares(whole, values, scales, search["mode"], method, seed)
            groups = [name for name, scale in scales.items() if isinstance(scale, Choices)]
            shares |= {name: share / presence(name, drawn, groups) for name, share in found.items()}
        else:
            shares |= _shares(drawn, values, scales, search["mode"], method, seed)
    total = sum(shares.values())
    ordered = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
    return {name: share / total if total > 0 else 0.0 for name, share in ordered}


def presence(name: str, drawn: list[dict[str, Any]], groups: list[str]) -> float:
    """The part of the space that has parameter `name`: of the group that decides it, the alternatives with it.

    Alternatives count alike, as in fANOVA's space, however often they were drawn. Groups in groups multiply. Where no
    one of `groups`, the parameters that are choices, decides it: the part of the trials.
    """
    have = [name in one for one in drawn]
    if all(have):
        return 1.0
    for group in groups:
        inside = [(one[group], has) for one, has in zip(drawn, have, strict=True) if group in one]
        with_it = {as_text(value) for value, has in inside if has}
        without = {as_text(value) for value, has in inside if not has}
        if sum(has for _, has in inside) == sum(have) and without and not with_it & without:
            return presence(group, drawn, groups) * len(with_it) / len(with_it | without)
    return sum(have) / len(have)


def fenced(values: list[float], mode: str) -> list[float]:
    """`values`, of which none is worse than three interquartile ranges outside the middle half."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    if mode == "max":
        return [max(value, low - 3 * (high - low)) for value in values]
    return [min(value, high + 3 * (high - low)) for value in values]


def _shares(
    drawn: list[dict[str, Any]],
    values: list[float],
    scales: dict[str, Span | Choices],
    mode: str,
    method: str,
    seed: int,
) -> dict[str, float]:
    """What optuna makes of these trials: each parameter's own part of the variation, not made to add up to 1."""
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

    distributions = {name: _optunas(scale) for name, scale in scales.items()}
    storage = optuna.storages.InMemoryStorage()
    direction = optuna.study.StudyDirection.MAXIMIZE if mode == "max" else optuna.study.StudyDirection.MINIMIZE
    log = optuna.logging.get_logger(type(storage).__module__)
    level = log.level
    log.setLevel(logging.WARNING)  # that a study was made in memory is no news
    try:
        storage.create_new_study([direction], "search")
    finally:
        log.setLevel(level)
    study = optuna.Study("search", storage)
    study.add_trials(
        optuna.trial.create_trial(
            value=value,
            params={name: _placed(one[name], scales[name]) for name in one if name in scales},
            distributions={name: distributions[name] for name in one if name in scales},
        )
        for one, value in zip(drawn, values, strict=True)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = (
            FanovaImportanceEvaluator(n_trees=TREES, seed=seed) if method == "fanova" else PedAnovaImportanceEvaluator()
        )
        found = get_param_importances(study, evaluator=evaluator, params=list(scales), normalize=False)
    return {name: float(share) for name, share in found.items()}


def _optunas(scale: Span | Choices) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(scale, Choices):
        return CategoricalDistribution(scale.texts)
    # The logarithm is taken here: fANOVA's forest would weigh a log range as a linear one.
    return FloatDistribution(scale.place(scale.low), scale.place(scale.high))


def _placed(value: Any, scale: Span | Choices) -> Any:
    return as_text(value) if isinstance(scale, Choices) else scale.place(value)
