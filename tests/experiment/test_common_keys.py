"""What many trees share is taken out once, and laid under what is left it gives each of them back."""

import pytest

from kdray.experiment.common_keys import common, without
from kdray.experiment.merge import merge


def test_shared_keys_of_maps_at_any_depth():
    trees = [{"a": 1, "b": {"c": [1], "d": 2}, "e": {}}, {"a": 1, "b": {"c": [1], "d": 3}, "e": {}}]
    assert common(trees) == {"a": 1, "b": {"c": [1]}, "e": {}}
    assert [without(tree, common(trees)) for tree in trees] == [{"b": {"d": 2}}, {"b": {"d": 3}}]


def test_values_that_python_takes_for_equal_are_not():
    assert common([{"a": 1, "b": [1]}, {"a": True, "b": [1.0]}]) == {}


@pytest.mark.parametrize(
    "trees",
    [
        [{"a": {"b": 1}}, {"a": {}}, {"a": None}],
        [{"train": {"optimizer": {"type": t, "lr": 1, "m": 2}}} for t in ("sgd", "adamw", "sgd")],
        [
            {"objectives": {"ce": {}, "kd": {"t": 4}}},
            {"objectives": {"ce": {}}},
            {"objectives": {"ce": {}, "kd": {"t": 1}}},
        ],
        [{"objectives": {"a": {"type": "kd", "t": 1}}}, {"objectives": {"a": {"type": "dkd", "t": 1}}}],
        [{"a": 1}],
    ],
)
def test_they_are_given_back(trees):
    shared = common(trees)
    assert [merge(shared, without(tree, shared)) for tree in trees] == trees
