"""The distributions of a search space: `Uniform`, `Integer`, `Choice`; each knows its values, and itself as text."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

from kdray.errors import ConfigError

Value: TypeAlias = int | float | str | bool | None
MAX_WHOLE = 2**53  # searchers count in float64

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NOT_TEXT = ("null", "true", "false")


@dataclass(frozen=True)
class Uniform:
    """Numbers from `low` to `high`, both taken, in steps of `step`; with `log` even in their logarithm."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError: an empty range, one that has no logarithm, or steps that miss its end."""
        for name in ("low", "high"):
            object.__setattr__(self, name, _number(getattr(self, name)))
        _check_range(self.low, self.high, self.step, self.log)
        if self.step is not None:
            object.__setattr__(self, "step", _number(self.step))

    def contains(self, value: Any) -> bool:
        """Whether `value` is one of its numbers (whole ones do)."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        at = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(at - round(at)) < 1e-6

    def snap(self, value: float) -> float:
        """The nearest of its numbers, written in as few digits as `low` and `step` are."""
        if self.step is None:
            return min(max(float(value), self.low), self.high)
        return self._at(min(max(round((value - self.low) / self.step), 0), self._steps))

    def points(self) -> list[float] | None:
        """All its numbers; None where they are not countable."""
        return None if self.step is None else [self._at(i) for i in range(self._steps + 1)]

    def text(self) -> str:
        """As a file has it: `uniform(0, 1, 0.25)`, `loguniform(0.01, 3)`."""
        numbers = (self.low, self.high) if self.step is None else (self.low, self.high, self.step)
        return f"{'log' * self.log}uniform({', '.join(map(_digits, numbers))})"

    @property
    def _steps(self) -> int:
        return 0 if self.step is None else round((self.high - self.low) / self.step)

    def _at(self, i: int) -> float:
        return float(Decimal(repr(self.low)) + i * Decimal(repr(self.step)))


@dataclass(frozen=True)
class Integer:
    """Whole numbers from `low` to `high`, both taken, in steps of `step`; with `log` even in their logarithm."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError: what is no whole number, an empty range, or steps that miss its end."""
        for value in (self.low, self.high, self.step):
            if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_WHOLE:
                raise ConfigError(f"{written(value)} is not a whole number", fix="Write int(1, 8), or use uniform")
        _check_range(self.low, self.high, None if self.step == 1 else self.step, self.log)

    def contains(self, value: Any) -> bool:
        """Whether `value` is one of its numbers."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def snap(self, value: float) -> int:
        """The nearest of its numbers."""
        steps = (self.high - self.low) // self.step
        return self.low + self.step * min(max(round((value - self.low) / self.step), 0), steps)

    def points(self) -> range:
        """All its numbers."""
        return range(self.low, self.high + 1, self.step)

    def text(self) -> str:
        """As a file has it: `int(8, 64, 8)`, `logint(1, 64)`."""
        numbers = (self.low, self.high) if self.step == 1 else (self.low, self.high, self.step)
        return f"{'log' * self.log}int({', '.join(map(str, numbers))})"


@dataclass(frozen=True)
class Choice:
    """One of `values`: text, numbers, true, false or null, each once."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        """Raises ConfigError: nothing to choose, what is no single value, or two that are equal."""
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise ConfigError("has nothing to choose from", fix="Write choice(2, 4, 8), or the list [2, 4, 8]")
        for i, value in enumerate(self.values):
            if value is not None and not isinstance(value, str | bool | int | float):
                fix = "Choose among text, numbers, true, false and null; for maps and lists write a group"
                raise ConfigError(f"{written(value)} cannot be chosen", fix=fix)
            if isinstance(value, float):
                _number(value)
            twin = next((one for one in self.values[:i] if one == value), ...)
            if twin is not ...:
                told = "stands there twice" if repr(twin) == repr(value) else f"is equal to {written(twin)}"
                raise ConfigError(f"{written(value)} {told}", fix="Keep one of them")

    @property
    def ordered(self) -> bool:
        """Whether all are numbers, so that one may be next to another."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    def contains(self, value: Any) -> bool:
        """Whether `value` is one of them; 1 is not true."""
        return any(one == value and isinstance(one, bool) == isinstance(value, bool) for one in self.values)

    def snap(self, value: Value) -> Value:
        """The one that is equal to `value`, which must be there."""
        return next(one for one in self.values if one == value)

    def points(self) -> tuple[Value, ...]:
        """All of them."""
        return self.values

    def text(self) -> str:
        """As a file has it: `choice(2, 4, 8)`."""
        return f"choice({', '.join(map(written, self.values))})"


Distribution: TypeAlias = Uniform | Integer | Choice


def written(value: Any) -> str:
    """`value` on one line, as a file has it."""
    plain_word = isinstance(value, str) and _WORD.fullmatch(value) and value.lower() not in _NOT_TEXT
    return str(value) if plain_word else json.dumps(value, ensure_ascii=False, default=repr)


def _digits(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 1e6 else repr(number)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{written(value)} is not a finite number", fix="Write numbers: uniform(0.1, 1)")
    return float(value)


def _check_range(low: float, high: float, step: float | None, log: bool) -> None:
    if low >= high:
        raise ConfigError(f"{low:g} is not below {high:g}", fix="Give the lower end first, and two ends that differ")
    if log and low <= 0:
        raise ConfigError(f"{low:g} has no logarithm", fix="Give a lower end above 0, or leave log out")
    if step is None:
        return
    step = _number(step)
    if log:
        raise ConfigError("what is even in its logarithm has no steps", fix="Remove the step, or leave log out")
    if step <= 0:
        raise ConfigError(f"{step:g} is no step", fix="Give a step above 0")
    steps = (high - low) / step
    if abs(steps - round(steps)) > 1e-6 or steps < 1:
        last = low + math.floor(steps + 1e-6) * step
        ends = [end for end in (last, last + step) if end > low]
        fix = f"End at {' or '.join(f'{end:.12g}' for end in ends)}, or change the step"
        raise ConfigError(f"steps of {step:g} from {low:g} do not meet {high:g}", fix=fix)
