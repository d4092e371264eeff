"""Calls in braces stay whole, and nothing else changes."""

import pytest

from kdray.experiment.yaml_text import parse


@pytest.mark.parametrize(
    "text, value",
    [
        ("{a: uniform(0.1, 2), b: 3}", {"a": "uniform(0.1, 2)", "b": 3}),
        ("{a: choice(2, 4), b: choice(1, 4)}", {"a": "choice(2, 4)", "b": "choice(1, 4)"}),
        ("{a: choice(x,\n   y,  z)}", {"a": "choice(x, y, z)"}),
        ("{m: {a: int(1, 8, 7)}, n: {}}", {"m": {"a": "int(1, 8, 7)"}, "n": {}}),
        ("a: uniform(0.1, 2)", {"a": "uniform(0.1, 2)"}),
        ("{a: f(1), b: 'g(1', c: 2}", {"a": "f(1)", "b": "g(1", "c": 2}),
        ("{a: f(1, b: 2}", {"a": "f(1", "b": 2}),
        ("{a: f(1, b, c: [2)]}", {"a": "f(1", "b": None, "c": ["2)"]}),
        ("{a: b, c, d)}", {"a": "b", "c": None, "d)": None}),
    ],
)
def test_a_call_in_braces_is_one_text(text, value):
    assert parse(text, "t").value == value


def test_a_call_still_knows_its_line():
    document = parse("x: 1\ny: {a: choice(1,\n  2), b: 3}\n", "f.yaml")
    assert document.place(("y", "a")) == "f.yaml:2"
    assert document.place(("y", "b")) == "f.yaml:3"
