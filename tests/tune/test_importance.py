"""Importance of parameters: against variances that are known, with parameters that not all trials have."""

from __future__ import annotations

import logging
import math
import random
import time
from typing import Any

import pytest

from kdray.tune.distribution import Choices, Span, distribution
from kdray.tune.importance import fenced, importance, presence
from tests.report.searches import facts, search, trial


def found(rows: list[tuple[dict[str, Any], float | None]], **values: Any) -> dict[str, Any]:
    return facts([trial(n, parameters=drawn, value=value) for n, (drawn, value) in enumerate(rows)], **values)


def linear(count: int, seed: int = 0) -> dict[str, Any]:
    """Value 2 a + b of uniform a and b, and of c not at all: a has 4 parts of the variance, b one."""
    rng = random.Random(seed)
    drawn = [{"x.a": rng.random(), "x.b": rng.random(), "x.c": rng.random()} for _ in range(count)]
    return found([(one, 2 * one["x.a"] + one["x.b"]) for one in drawn], space=dict.fromkeys(drawn[0], "uniform(0, 1)"))


def test_shares_are_those_of_the_variance() -> None:
    shares = importance(linear(120))
    assert shares is not None
    assert list(shares) == ["x.a", "x.b", "x.c"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["x.a"] == pytest.approx(0.8, abs=0.06) and shares["x.c"] < 0.03


def test_both_methods_find_what_matters_and_say_the_same_twice() -> None:
    some = search(60)
    for method in ("fanova", "pedanova"):
        shares = importance(some, method)  # type: ignore[arg-type]
        assert shares is not None and shares == importance(some, method)  # type: ignore[arg-type]
        assert set(shares) == {name for one in some["trials"] for name in one["parameters"]}
        assert shares["train.optimizer.lr"] > shares["train.batch"]
        assert all(type(share) is float for share in shares.values())


def conditional(between: float, within: float) -> dict[str, Any]:
    """Methods `between` apart; kd's weight moves its value by `within`, mcld's does nothing."""
    rng = random.Random(1)
    rows: list[tuple[dict[str, Any], float | None]] = []
    for number in range(120):
        weight = rng.random()
        if number % 2:
            rows.append(({"method": "kd", "kd.weight": weight}, within * weight))
        else:
            rows.append(({"method": "mcld", "mcld.weight": weight}, between + 0.01 * rng.random()))
    return found(rows, space={"method": "choice(kd, mcld)", "kd.weight": "uniform(0, 1)"})


def test_a_parameter_of_one_alternative_is_judged_where_it_is() -> None:
    shares = importance(conditional(between=1.0, within=0.0))
    assert shares is not None and shares["method"] > 0.99  # no part of the difference goes to the parameters
    shares = importance(conditional(between=0.5, within=1.0))
    # Means are equal, so the method has nothing, and all variation is that of kd's weight.
    assert shares is not None and shares["kd.weight"] > 0.85 and shares["mcld.weight"] < 0.05
    shares = importance(conditional(between=1.0, within=1.0))
    # Between the methods: (1/2)² / 4 = 1/16; within kd, half of all: 1/12 / 2 = 1/24.
    assert shares is not None and shares["method"] == pytest.approx(0.6, abs=0.1)
    assert shares["kd.weight"] == pytest.approx(0.4, abs=0.1)


def test_the_part_of_the_space_that_has_a_parameter() -> None:
    drawn = [
        {"m": "kd", "kd.form": "a", "a.x": 1},
        {"m": "kd", "kd.form": "a", "a.x": 2},
        {"m": "kd", "kd.form": "b"},
        {"m": "at"},
        {"m": "at"},
        {"m": "rkd", "lone": 1},
        {"m": "rkd"},
    ]
    groups = ["m", "kd.form"]
    assert [presence(name, drawn, groups) for name in ("m", "kd.form", "a.x", "lone")] == [1, 1 / 3, 1 / 6, 1 / 7]


def test_too_few_trials_with_a_parameter_say_nothing_of_it() -> None:
    rows: list[tuple[dict[str, Any], float | None]] = [({"method": "kd"}, 0.1) for n in range(10)]
    rows += [({"method": "at", "at.weight": n}, 0.2 * n) for n in range(3)]
    shares = importance(found(rows))
    assert shares == {"method": 1.0, "at.weight": 0.0}
    rows += [({"method": "at", "at.weight": 3}, 0.6)]
    shares = importance(found(rows))
    assert shares is not None and shares["at.weight"] > 0.1


def test_what_has_no_value_does_not_count() -> None:
    rows: list[tuple[dict[str, Any], float | None]] = [({"a": n}, 0.1 * n) for n in range(8)]
    some = found(rows)
    assert importance(some) is not None
    some["trials"][0] |= {"value": None}
    assert importance(some) is None
    some["trials"][0] |= {"value": 0.5, "state": "failed"}
    assert importance(some) is None
    some["trials"][0] |= {"state": "stopped"}
    assert importance(some) == {"a": 1.0}


def test_without_variation_nothing_matters() -> None:
    assert importance(found([({"a": n, "b": 1}, 0.5) for n in range(9)])) == {"a": 0.0, "b": 0.0}
    assert importance(found([({}, 0.1 * n) for n in range(9)])) == {}
    shares = importance(found([({"a": n, "b": 1}, 0.1 * n) for n in range(9)]))
    assert shares == {"a": 1.0, "b": 0.0}


def test_one_trial_that_diverged_is_not_all_of_the_variation() -> None:
    some = linear(60)
    some["trials"][7] |= {"value": -1e9, "parameters": {"x.a": 0.5, "x.b": 0.5, "x.c": 0.001}}
    shares = importance(some)
    assert shares is not None and shares["x.a"] > 0.6
    assert fenced([1.0, 2.0, 3.0, 4.0, 1e6], "min") == [1.0, 2.0, 3.0, 4.0, 10.0]
    assert fenced([-1e6, 2.0, 3.0, 4.0, 1e6], "max") == [-4.0, 2.0, 3.0, 4.0, 1e6]


def test_a_log_range_is_weighed_as_one() -> None:
    rng = random.Random(2)
    drawn = [{"lr": 10 ** rng.uniform(-4, 0), "b": rng.random()} for _ in range(150)]
    # Half of the variance from the decade of lr, which on a linear scale is crowded into its first hundredth.
    rows: list[tuple[dict[str, Any], float | None]] = [(one, math.log10(one["lr"]) / 4 + one["b"]) for one in drawn]
    shares = importance(found(rows, space={"lr": "loguniform(1e-4, 1)", "b": "uniform(0, 1)"}))
    assert shares is not None and shares["lr"] == pytest.approx(0.5, abs=0.08)


def test_values_of_any_kind(caplog: pytest.LogCaptureFixture) -> None:
    kinds = [None, True, "x", [1, 2], {"a": 1}, 0.5, False, 3]
    with caplog.at_level(logging.DEBUG):
        shares = importance(found([({"a": value, "b": n}, 0.1 * n) for n, value in enumerate(kinds * 2)]))
    assert shares is not None and shares["b"] > shares["a"]
    assert caplog.text == ""


def test_a_thousand_trials_take_seconds() -> None:
    began = time.monotonic()
    shares = importance(search(1000))
    assert shares is not None and next(iter(shares)) == "train.optimizer.lr"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "text, seen, scale",
    [
        ("uniform(0.1, 1)", [0.2], Span(0.1, 1)),
        ("uniform(0, 1, 0.25)", [0.25, 1.5], Span(0, 1.5)),  # pbt goes beyond the range
        ("loguniform(1e-2, 3)", [0.1], Span(0.01, 3, log=True)),
        ("logint(1, 64)", [2, 4], Span(1, 64, log=True)),
        ("int(8, 64, 8)", [8], Span(8, 64)),
        ("loguniform(0.1, 1)", [0.0], Span(0, 1)),
        ("uniform(0, 1)", [0.5, "x"], Choices(("0.5", '"x"'))),
        ("choice(10, 2, 4)", [10, 2], Choices(("2", "10"))),
        (None, [1, 2, 1], Choices(("1", "2"))),
        (None, [0.1 * n for n in range(1, 8)], Span(0.1, 0.7000000000000001)),
        (None, [True, "kd", None], Choices(('"kd"', "null", "true"))),
    ],
)
def test_scales(text: str | None, seen: list[Any], scale: Span | Choices) -> None:
    assert distribution(text, seen) == scale
