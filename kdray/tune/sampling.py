"""Settings of a space: asked of Optuna, drawn at random, all of a grid, or moved from another one.

Every setting is plain values: Python numbers, text, true, false, None, the same after a trip through JSON.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kdray.experiment.distributions import Choice, Distribution, Integer, Value
from kdray.experiment.space import Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

FACTORS = (0.8, 1.2)  # Jaderberg et al., Population Based Training of Neural Networks, arXiv 1711.09846


def ask(space: Space, trial: BaseTrial) -> dict[str, Value]:
    """The setting that Optuna suggests for `trial`; of a group only what its alternative searches is asked for."""

    def suggest(name: str, one: Distribution) -> Value:
        if isinstance(one, Choice):
            return one.snap(trial.suggest_categorical(name, list(one.values)))
        if isinstance(one, Integer):
            return one.snap(trial.suggest_int(name, one.low, one.high, step=one.step, log=one.log))
        return one.snap(trial.suggest_float(name, one.low, one.high, step=one.step, log=one.log))

    return space.walk(suggest)


def distributions(space: Space, parameters: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each of `parameters`: what `optuna.trial.create_trial` is given for a trial of old.

    Raises:
        ConfigError: these are no parameters of `space`.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space.validate(parameters)
    found: dict[str, BaseDistribution] = {}

    def note(name: str, one: Distribution) -> Value:
        if isinstance(one, Choice):
            found[name] = CategoricalDistribution(one.values)
        elif isinstance(one, Integer):
            found[name] = IntDistribution(one.low, one.high, step=one.step, log=one.log)
        else:
            found[name] = FloatDistribution(one.low, one.high, step=one.step, log=one.log)
        return parameters[name]

    space.walk(note)
    return found


def grid(space: Space) -> list[dict[str, Value]]:
    """Every setting of a space whose distributions are all countable, the last name's values changing first.

    Raises:
        ValueError: a distribution is not countable.
    """
    return list(_grid(space))


def _grid(space: Space) -> Iterator[dict[str, Value]]:
    axes: list[list[dict[str, Value]]] = []
    for name, one in space.parameters.items():
        points = one.points()
        if points is None:
            raise ValueError(f"{name}: the values of {one.text()} cannot be counted")
        axes.append([{name: value} for value in points])
    for group in space.groups:
        ways = group.alternatives.items()
        axes.append([{group.name: name, **inner} for name, way in ways for inner in _grid(way.space)])
    for parts in itertools.product(*axes):
        yield {name: value for part in parts for name, value in part.items()}


def draw(space: Space, rng: random.Random) -> dict[str, Value]:
    """A setting drawn at random from `rng`."""
    return space.walk(_drawn(rng))


def _drawn(rng: random.Random) -> Callable[[str, Distribution], Value]:
    def choose(_: str, one: Distribution) -> Value:
        if isinstance(one, Choice):
            return rng.choice(one.values)
        if one.log:
            # Half a step more at either end gives every whole number its share.
            margin = 0.5 if isinstance(one, Integer) else 0.0
            return one.snap(math.exp(rng.uniform(math.log(one.low - margin), math.log(one.high + margin))))
        if one.step is None:
            return one.snap(rng.uniform(one.low, one.high))
        return one.snap(one.low + one.step * rng.randint(0, round((one.high - one.low) / one.step)))

    return choose


def perturb(space: Space, parameters: Mapping[str, Any], rng: random.Random, resample: float) -> dict[str, Value]:
    """A setting near `parameters`: each is drawn anew with probability `resample`, else moved.

    Numbers are multiplied by 0.8 or 1.2 and stay in their range; where that leaves one of a few numbers as it is, it
    goes to the next. Of a choice the next larger or smaller number is taken; what has no order stays.

    Raises:
        ConfigError: these are no parameters of `space`.
    """
    space.validate(parameters)
    anew = _drawn(rng)

    def choose(name: str, one: Distribution) -> Value:
        # What only another alternative has was not there before, or not in this range.
        if name not in parameters or not one.contains(parameters[name]) or rng.random() < resample:
            return anew(name, one)
        return _moved(one, parameters[name], rng)

    return space.walk(choose)


def _moved(one: Distribution, value: Any, rng: random.Random) -> Value:
    if isinstance(one, Choice):
        return _neighbour(sorted(one.values), value, rng) if one.ordered else value  # type: ignore[type-var]
    factor = rng.choice(FACTORS)
    moved = one.snap(value * factor)
    if moved == value and one.step is not None:
        up = (factor > 1) == (value > 0)
        moved = one.snap(value + one.step if up else value - one.step)
    return moved


def _neighbour(values: list[Any], value: Any, rng: random.Random) -> Value:
    at = values.index(value) + rng.choice((-1, 1))
    return values[min(max(at, 0), len(values) - 1)]
