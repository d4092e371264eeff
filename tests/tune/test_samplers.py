"""New points: a search that was stopped and goes on asks what it would have asked."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterable
from typing import Any

import pytest

from kdray.errors import ConfigError
from kdray.experiment import Search
from kdray.experiment.space import Space
from kdray.experiment.space_text import parse_space
from kdray.tune.samplers import Optuna, make_sampler
from kdray.tune.suggest import Sampler
from kdray.tune.trials import Goal, Trial, take_rows

LR, WEIGHT, HEAT = "train.optimizer.lr", "objectives.kd.weight", "objectives.kd.temperature"
NUMBERS = parse_space({LR: "loguniform(0.001, 1)", WEIGHT: "uniform(0, 2)", HEAT: "int(1, 20)"})
MIXED = parse_space({LR: "loguniform(0.001, 1)", HEAT: [2, 4, 8], "train.optimizer.nesterov": [True, False]})
CONDITIONAL = parse_space(
    {
        LR: "loguniform(0.001, 1)",
        "method": {
            "kd": {WEIGHT: "uniform(0.1, 2)", HEAT: [2, 4, 8]},
            "rkd": {"objectives.rkd": {}, "objectives.rkd.angle": "loguniform(5, 100)"},
        },
    }
)
FEW = parse_space({LR: "loguniform(0.001, 1)", HEAT: [2, 4, 8]})  # a Gaussian process takes its time
FINITE = parse_space({WEIGHT: "uniform(0, 1, 0.5)", HEAT: [2, 4]})
KINDS = [
    ("random", CONDITIONAL),
    ("grid", FINITE),
    ("tpe", NUMBERS),
    ("tpe", MIXED),
    ("tpe", CONDITIONAL),
    ("gp", FEW),
]
GOALS = {"max": Goal("val/top1"), "min": Goal("val/top1", "min")}
SAMPLED = {"tpe": {"startup": 3}, "gp": {"startup": 3}}


def sampler(kind: str, space: Space, mode: str = "max", seed: int = 0) -> Sampler:
    """As a new command makes it."""
    search = Search.model_validate({"searcher": {"type": kind, **SAMPLED.get(kind, {})}})
    return make_sampler(search.searcher, space, seed, GOALS[mode])


def quality(trial: Trial) -> float:
    """A made-up accuracy: best at lr 0.1, and another function of everything else."""
    parameters = trial["parameters"]
    rest = sum(math.sin(7 * n + float(value)) for n, value in enumerate(parameters.values()) if _is_number(value))
    return 0.5 - 0.1 * abs(math.log10(parameters.get(LR, 0.1)) + 1) + 0.01 * rest


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def end(trial: Trial, mode: str = "max") -> Trial:
    """Train it: of ten, the fourth fails and the sixth is stopped."""
    state = {3: "failed", 5: "stopped"}.get(trial["number"] % 10, "done")
    value, epochs = quality(trial), {"failed": 0, "stopped": 1}.get(state, 3)
    rows = [{"epoch": n, "val/top1": value * n / 3, "seconds": 1.0} for n in range(1, epochs + 1)]
    take_rows(trial, rows, GOALS[mode])
    trial["state"] = state
    return trial


def rebuilt(kind: str, space: Space, trials: Iterable[Trial], mode: str = "max") -> tuple[Sampler, dict[int, Trial]]:
    """The sampler of a later command, which knows of `trials` what their JSON says."""
    again = {trial["number"]: trial for trial in json.loads(json.dumps(list(trials)))}
    new = sampler(kind, space, mode)
    for number in sorted(again):
        tell = new.resume if again[number]["state"] in ("waiting", "running") else new.tell
        tell(again[number])
    return new, again


def search(kind: str, space: Space, count: int, stops: Iterable[int] = (), workers: int = 2) -> list[Trial]:
    """`count` trials, `workers` at a time, ending in the order of their beginning; a new command at each of `stops`."""
    asked, trials, running = sampler(kind, space), {}, []
    stops = set(stops)
    for number in range(count):
        if number in stops:
            asked, trials = rebuilt(kind, space, trials.values())
        new = asked.ask(number)
        if new is None:
            break
        trials[number] = new | {"state": "running"}
        running.append(number)
        if len(running) == workers:
            asked.tell(end(trials[running.pop(0)]))
    return [trials[number] for number in sorted(trials)]


@pytest.mark.parametrize("kind, space", KINDS)
def test_a_search_that_goes_on_asks_what_it_would_have_asked(kind: str, space: Space) -> None:
    count = 8 if kind == "gp" else 24
    whole = [trial["parameters"] for trial in search(kind, space, count)]
    stopped = [trial["parameters"] for trial in search(kind, space, count, stops=(1, 4, 5, 13, 20))]
    assert stopped == whole
    if kind != "grid":
        assert len({json.dumps(each) for each in whole}) > count // 2


@pytest.mark.parametrize("kind, space", KINDS)
def test_a_stop_after_every_trial_changes_nothing(kind: str, space: Space) -> None:
    count = 6 if kind == "gp" else 12
    whole = [trial["parameters"] for trial in search(kind, space, count, workers=3)]
    assert [trial["parameters"] for trial in search(kind, space, count, stops=range(count), workers=3)] == whole


@pytest.mark.parametrize("kind, space", [each for each in KINDS if each[0] != "grid"])
def test_another_seed_asks_otherwise(kind: str, space: Space) -> None:
    def first(seed: int) -> list[Any]:
        new = sampler(kind, space, seed=seed)
        asked = [new.ask(number) for number in range(3)]
        return [trial["parameters"] for trial in asked if trial is not None]

    assert first(0) == first(0) != first(1)
    assert len({json.dumps(each) for each in first(0)}) == 3


@pytest.mark.parametrize("kind, space", KINDS)
def test_points_are_of_the_space_with_the_changes_that_they_make(kind: str, space: Space) -> None:
    for trial in search(kind, space, 6):
        space.validate(trial["parameters"])
        assert trial["changes"] == space.changes(trial["parameters"])
        assert json.loads(json.dumps(trial)) == trial


def test_of_a_group_only_what_its_alternative_searches_is_there() -> None:
    trials = search("tpe", CONDITIONAL, 20)
    ways = {"kd": {LR, "method", WEIGHT, HEAT}, "rkd": {LR, "method", "objectives.rkd.angle"}}
    assert {trial["parameters"]["method"] for trial in trials} == set(ways)
    for trial in trials:
        assert set(trial["parameters"]) == ways[trial["parameters"]["method"]]
        assert "method" not in trial["changes"]


def test_a_grid_has_every_point_once_and_then_none() -> None:
    trials = search("grid", FINITE, 100)
    assert len(trials) == 6 == len({json.dumps(trial["parameters"]) for trial in trials})
    assert sampler("grid", FINITE).ask(6) is None


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("kind", ["tpe", "gp", "cma_es"])
def test_what_is_told_is_learned_from(kind: str, mode: str) -> None:
    space = parse_space({WEIGHT: "uniform(0, 2)", "objectives.rkd.weight": "uniform(0, 2)"})
    asked, weights = sampler(kind, space, mode), []
    for number in range(10 if kind == "gp" else 40):
        trial = asked.ask(number)
        assert trial is not None
        weights.append(trial["parameters"][WEIGHT])
        value = -abs(weights[-1] - 0.3) if mode == "max" else abs(weights[-1] - 0.3)
        take_rows(trial, [{"epoch": 1, "val/top1": value, "seconds": 1.0}], GOALS[mode])
        asked.tell(trial | {"state": "done"})
    late = weights[-4 if kind == "gp" else -12 :]
    assert sum(abs(weight - 0.3) for weight in late) / len(late) < 0.3  # of uniform draws the mean is 0.745


def test_cma_es_goes_on_where_the_best_were_and_leaves_no_pickle() -> None:
    space = parse_space({WEIGHT: "uniform(0, 2)", "objectives.rkd.weight": "uniform(0, 2)"})

    def run(asked: Sampler, numbers: range) -> list[Trial]:
        trials = []
        for number in numbers:
            trial = asked.ask(number)
            assert trial is not None and trial["sampler"] == {}
            value = -abs(trial["parameters"][WEIGHT] - 0.3)
            take_rows(trial, [{"epoch": 1, "val/top1": value, "seconds": 1.0}], GOALS["max"])
            trials.append(trial | {"state": "done"})
            asked.tell(trials[-1])
        return trials

    before = run(sampler("cma_es", space), range(30))
    again = sampler("cma_es", space)
    for trial in json.loads(json.dumps(before)):
        again.tell(trial)
    weights = [trial["parameters"][WEIGHT] for trial in run(again, range(30, 42))]
    assert sum(abs(weight - 0.3) for weight in weights) / len(weights) < 0.4  # of uniform draws the mean is 0.745


def test_a_trial_that_never_had_a_value_is_told_as_failed() -> None:
    asked = sampler("tpe", NUMBERS)
    assert isinstance(asked, Optuna)
    for number, state in enumerate(("failed", "stopped", "done")):
        trial = asked.ask(number)
        assert trial is not None
        asked.tell(trial | {"state": state})
        old = copy.deepcopy(trial) | {"state": state, "number": number + 10}
        asked.tell(old)  # as of an earlier command
    assert {trial.state.name for trial in asked._study.trials} == {"FAIL"}
    assert asked.ask(20) is not None


def test_a_stopped_trial_is_told_with_its_epochs() -> None:
    asked = sampler("tpe", NUMBERS)
    assert isinstance(asked, Optuna)
    trial = asked.ask(0)
    assert trial is not None
    take_rows(trial, [{"epoch": n, "val/top1": v} for n, v in ((1, 0.1), (2, math.nan), (3, 0.3))], GOALS["max"])
    asked.tell(trial | {"state": "stopped"})
    asked.tell(json.loads(json.dumps(trial)) | {"state": "stopped", "number": 1})
    for known in asked._study.trials:
        assert known.state.name == "PRUNED"
        assert known.intermediate_values == {1: 0.1, 3: 0.3}


def test_parameters_of_another_space_are_refused() -> None:
    trial = end(search("tpe", NUMBERS, 1)[0] | {"state": "waiting"})
    with pytest.raises(ConfigError, match=r"kd\.temperature: 6 is not in choice\(2, 4, 8\)"):
        sampler("tpe", MIXED).tell(trial)


@pytest.mark.parametrize("kind, space", [("random", NUMBERS), ("tpe", CONDITIONAL), ("cma_es", NUMBERS)])
def test_a_thousand_trials_are_told_in_seconds(kind: str, space: Space) -> None:
    drawn = [sampler("random", space).ask(number) for number in range(1000)]
    trials = [end(trial) for trial in drawn if trial is not None]
    started = time.perf_counter()
    asked, _ = rebuilt(kind, space, trials)
    assert time.perf_counter() - started < 20
    assert asked.ask(1000) is not None
