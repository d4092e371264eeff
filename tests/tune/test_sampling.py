"""Settings of a space, however they are made, are settings of it; and plain values."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import optuna
import pytest

from kdray.errors import ConfigError
from kdray.experiment.space import Alternative, Choice, Group, Integer, Space, Uniform
from kdray.tune.sampling import ask, distributions, draw, grid, perturb

optuna.logging.set_verbosity(optuna.logging.ERROR)

NUMBERS = Space(
    {
        "a": Uniform(0.1, 2),
        "b": Uniform(0.01, 3, log=True),
        "c": Uniform(0, 0.7, 0.1),
        "d": Integer(1, 64, log=True),
        "e": Integer(8, 64, 8),
    }
)
FEW = Space({"a": Uniform(0.1, 2), "e": Integer(8, 64, 8)})
INNER = Group("inner", {"x": Alternative(), "y": Alternative({}, Space({"h": Integer(1, 3)}))})
SPACE = Space(
    {**NUMBERS.parameters, "f": Choice((2, 4.5, 8)), "o": Choice((True, None, "word", 2))},
    (
        Group(
            "g",
            {
                "p": Alternative({}, Space({"k": Uniform(0, 1), "m": Uniform(0, 1)})),
                "q": Alternative({"z": 1}, Space({"m": Uniform(0, 2)}, (INNER,))),
            },
        ),
    ),
)


def check(space: Space, parameters: dict[str, Any]) -> None:
    """A setting of `space`, and plain: equal in values and types after a trip through JSON."""
    space.validate(parameters)
    again = json.loads(json.dumps(parameters))
    assert again == parameters
    assert {k: type(v) for k, v in again.items()} == {k: type(v) for k, v in parameters.items()}
    assert {type(v) for v in parameters.values()} <= {int, float, str, bool, type(None)}


@pytest.mark.parametrize(
    "sampler, space, trials",
    [
        (lambda: optuna.samplers.RandomSampler(seed=0), SPACE, 40),
        (lambda: optuna.samplers.TPESampler(seed=0, multivariate=True, n_startup_trials=8), SPACE, 40),
        (lambda: optuna.samplers.CmaEsSampler(seed=0, n_startup_trials=4), NUMBERS, 40),
        (lambda: optuna.samplers.CmaEsSampler(seed=0, n_startup_trials=4), Space({"a": Uniform(0, 1)}), 20),
        (lambda: optuna.samplers.GPSampler(seed=0, n_startup_trials=3), FEW, 5),
    ],
    ids=["random", "tpe", "cma_es", "cma_es of one", "gp"],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_what_optuna_suggests_is_a_setting_and_can_be_remembered(sampler: Any, space: Space, trials: int) -> None:
    study, memory = (optuna.create_study(sampler=sampler()) for _ in range(2))
    seen = set()
    for i in range(trials):
        trial = study.ask()
        parameters = ask(space, trial)
        check(space, parameters)
        seen.add(json.dumps(parameters))
        study.tell(trial, float(i % 7))
        found = distributions(space, parameters)
        assert set(found) == set(parameters)
        old = optuna.trial.create_trial(params=parameters, distributions=found, value=float(i % 7))
        memory.add_trial(old)
        assert found == trial.distributions
        assert memory.trials[-1].params == parameters
    assert len(seen) > trials * 0.8
    check(space, ask(space, memory.ask()))


def test_a_study_of_remembered_trials_goes_on_alike() -> None:
    """What the sampler proposes after a resume is what it would have proposed without."""

    def sampler() -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(seed=3, n_startup_trials=4, multivariate=True)

    done: list[tuple[dict[str, Any], float]] = []
    study = optuna.create_study(sampler=sampler())
    for i in range(8):
        trial = study.ask()
        done.append((ask(SPACE, trial), float(i)))
        study.tell(trial, float(i))
    two = []
    for _ in range(2):
        again = optuna.create_study(sampler=sampler())
        for parameters, value in done:
            found = distributions(SPACE, parameters)
            again.add_trial(optuna.trial.create_trial(params=parameters, distributions=found, value=value))
        two.append(ask(SPACE, again.ask()))
    assert two[0] == two[1]


def test_distributions_of_what_is_no_setting() -> None:
    with pytest.raises(ConfigError, match="a: has no value"):
        distributions(SPACE, {})


def test_grid_is_every_setting_once() -> None:
    ways = {"p": Alternative(), "q": Alternative({}, Space({"k": Uniform(0, 1, 0.5)}, (INNER,)))}
    space = Space({"e": Integer(1, 2), "f": Choice((2, 4, 8))}, (Group("g", ways),))
    found = grid(space)
    assert len(found) == space.size() == 2 * 3 * (1 + 3 * (1 + 3))
    assert len({json.dumps(one, sort_keys=True) for one in found}) == len(found)
    for one in found:
        check(space, one)
    assert found[0] == {"e": 1, "f": 2, "g": "p"}
    assert found[1] == {"e": 1, "f": 2, "g": "q", "k": 0.0, "inner": "x"}
    assert grid(Space()) == [{}]
    with pytest.raises(ValueError, match=r"a: the values of uniform\(0\.1, 2\) cannot be counted"):
        grid(NUMBERS)


def test_draws_cover_their_ranges_evenly() -> None:
    rng = random.Random(0)
    drawn = [draw(SPACE, rng) for _ in range(4000)]
    for one in drawn[:200]:
        check(SPACE, one)
    assert draw(SPACE, random.Random(7)) == draw(SPACE, random.Random(7)) != draw(SPACE, random.Random(8))
    counts = Counter(one["c"] for one in drawn)
    assert set(counts) == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7} and min(counts.values()) > 400
    assert {one["e"] for one in drawn} == set(range(8, 65, 8))
    below = sum(one["b"] < 0.01 * 300**0.5 for one in drawn)  # the middle of the logarithm
    assert 1850 < below < 2150
    ones = Counter(one["d"] for one in drawn)
    assert ones[1] > 2 * ones[3] > 0 and max(ones) == 64
    assert 1850 < sum(one["g"] == "p" for one in drawn) < 2150


def test_perturbed_settings_stay_settings_and_near() -> None:
    rng = random.Random(1)
    for _ in range(300):
        at = draw(SPACE, rng)
        moved = perturb(SPACE, at, rng, 0.25)
        check(SPACE, moved)
        near = perturb(NUMBERS, {name: at[name] for name in NUMBERS.parameters}, rng, 0.0)
        check(NUMBERS, near)
        assert near["a"] in (pytest.approx(min(2, at["a"] * 1.2)), pytest.approx(max(0.1, at["a"] * 0.8)))
        assert near["b"] in (pytest.approx(min(3, at["b"] * 1.2)), pytest.approx(max(0.01, at["b"] * 0.8)))


def test_perturbing_moves_small_numbers_by_a_step() -> None:
    seen = {perturb(Space({"d": Integer(1, 64)}), {"d": 2}, random.Random(i), 0.0)["d"] for i in range(20)}
    assert seen == {1, 3}
    seen = {perturb(Space({"c": Uniform(-0.2, 0.2, 0.1)}), {"c": -0.1}, random.Random(i), 0.0)["c"] for i in range(20)}
    assert seen == {-0.2, 0.0}


def test_perturbing_a_choice() -> None:
    space = Space({"f": Choice((8, 2, 4.5)), "o": Choice((True, None, "word"))})
    seen = {tuple(perturb(space, {"f": 4.5, "o": None}, random.Random(i), 0.0).values()) for i in range(20)}
    assert seen == {(2, None), (8, None)}
    seen = {tuple(perturb(space, {"f": 8, "o": None}, random.Random(i), 0.0).values()) for i in range(20)}
    assert seen == {(4.5, None), (8, None)}
    anew = {perturb(space, {"f": 8, "o": None}, random.Random(i), 1.0)["o"] for i in range(40)}
    assert anew == {True, None, "word"}


def test_perturbing_draws_what_another_alternative_has() -> None:
    at = draw(SPACE, random.Random(0)) | {"g": "q", "m": 1.9, "inner": "x"}
    at = {name: value for name, value in at.items() if name not in ("k", "h")}
    seen = [perturb(SPACE, at, random.Random(i), 0.5) for i in range(40)]
    for one in seen:
        check(SPACE, one)
    assert {one["g"] for one in seen} == {"p", "q"}
    with pytest.raises(ConfigError, match="has no value"):
        perturb(SPACE, {}, random.Random(0), 0.5)
