"""What a distribution holds, and how it is written."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdray.errors import ConfigError
from kdray.experiment.distributions import Choice, Integer, Uniform
from kdray.experiment.space_text import read_distribution


@pytest.mark.parametrize(
    "one, inside, outside",
    [
        (Uniform(0.1, 1), [0.1, 0.5, 1, 1.0], [0.09, 1.1, True, "0.5", None]),
        (Uniform(0, 1, 0.25), [0, 0.25, 0.75, 1.0], [0.3, -0.25, 1.25]),
        (Uniform(0.01, 3, log=True), [0.01, 3], [0, 3.1]),
        (Integer(1, 8), [1, 8], [0, 9, 1.0, True, "1"]),
        (Integer(8, 64, 8), [8, 16, 64], [9, 72]),
        (Choice((2, 4, "a", None, False)), [2, 2.0, "a", None, False], [3, True, 0, "b"]),
    ],
)
def test_contains(one, inside, outside):
    assert [value for value in inside if not one.contains(value)] == []
    assert [value for value in outside if one.contains(value)] == []


def test_steps_are_written_in_few_digits():
    assert Uniform(0, 0.7, 0.1).points() == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert Uniform(0, 0.7, 0.1).snap(0.30000000000000004) == 0.3
    assert Uniform(0.1, 1).points() is None
    assert list(Integer(8, 32, 8).points()) == [8, 16, 24, 32]


def test_snap_stays_inside():
    for one in (Uniform(0.1, 1), Uniform(0, 1, 0.25), Integer(8, 64, 8), Integer(1, 64, log=True)):
        for value in (-1e9, 0.3, 7.2, 1e9):
            assert one.contains(one.snap(value))


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Uniform(1, 1), "1 is not below 1"),
        (lambda: Uniform(2, 1), "2 is not below 1"),
        (lambda: Uniform(0, 1, log=True), "0 has no logarithm"),
        (lambda: Uniform(1, 2, 0.5, log=True), "has no steps"),
        (lambda: Uniform(0, 1, 0), "0 is no step"),
        (lambda: Uniform(0, 1, 0.3), r"do not meet 1\. End at 0\.9 or 1\.2"),
        (lambda: Uniform(0, 1, 3), r"do not meet 1\. End at 3"),
        (lambda: Uniform(0, float("inf")), "not a finite number"),
        (lambda: Uniform(True, 2), "true is not a finite number"),
        (lambda: Integer(1.0, 2), r"1\.0 is not a whole number"),
        (lambda: Integer(0, 2**54), "is not a whole number"),
        (lambda: Integer(0, 8, log=True), "0 has no logarithm"),
        (lambda: Integer(1, 8, 3), r"End at 7 or 10"),
        (lambda: Choice(()), "nothing to choose from"),
        (lambda: Choice((1, 2, 1)), "1 stands there twice"),
        (lambda: Choice((1, True)), "true is equal to 1"),
        (lambda: Choice((1, 1.0)), r"1\.0 is equal to 1"),
        (lambda: Choice(([1], 2)), r"\[1\] cannot be chosen"),
        (lambda: Choice((float("nan"),)), "not a finite number"),
    ],
)
def test_what_is_no_distribution(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=8),
)


@given(st.lists(SCALARS, min_size=1, max_size=5, unique_by=lambda v: (v if isinstance(v, str) else hash(v), v == "")))
def test_choices_are_read_back(values):
    try:
        one = Choice(tuple(values))
    except ConfigError as error:  # 0 and false
        assert re.search("is equal to|stands there twice", error.problem)
        return
    again = read_distribution(one.text())
    assert again == one
    assert list(map(type, again.values)) == list(map(type, one.values))


@given(st.floats(1e-9, 1e9), st.floats(1.001, 1e6), st.booleans())
def test_ranges_are_read_back(low, factor, log):
    one = Uniform(low, low * factor, log=log)
    assert read_distribution(one.text()) == one


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 50), st.booleans())
def test_whole_ranges_are_read_back(low, steps, step, log):
    one = Integer(low, low + steps * step, 1 if log else step, log)
    assert read_distribution(one.text()) == one
