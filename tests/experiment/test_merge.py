"""Laying trees over each other: deep maps, whole lists, the type rule, null."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdray.experiment.merge import merge, override, teacher_train


def test_maps_merge_lists_and_scalars_replace():
    under = {"a": {"x": 1, "y": [1, 2]}, "b": 1, "c": {"z": 1}}
    over = {"a": {"y": [3], "w": 0}, "b": {"n": 1}, "c": 5}
    assert merge(under, over) == {"a": {"x": 1, "y": [3], "w": 0}, "b": {"n": 1}, "c": 5}


def test_another_type_replaces_the_map():
    under = {"train": {"optimizer": {"type": "sgd", "lr": 0.1, "momentum": 0.8}, "epochs": 3}}
    over = {"train": {"optimizer": {"type": "adamw", "lr": 1e-3}}}
    assert merge(under, over) == {"train": {"optimizer": {"type": "adamw", "lr": 1e-3}, "epochs": 3}}


@pytest.mark.parametrize(
    ("path", "default"),
    [
        (("train", "optimizer"), "sgd"),
        (("teacher", "train", "optimizer"), "sgd"),
        (("train", "schedule"), "constant"),
        (("train", "lr_rule"), "none"),
        (("objectives", "kd"), "kd"),
        (("teacher", "objectives", "kd"), "kd"),
        (("objectives", "kd", "schedule"), "constant"),
    ],
)
def test_an_unwritten_type_is_its_default(path, default):
    under = {"x": 1}
    assert merge(under, {"type": default, "y": 2}, path) == {"type": default, "x": 1, "y": 2}
    assert merge(under, {"type": "other", "y": 2}, path) == {"type": "other", "y": 2}
    assert merge({"type": "other", "x": 1}, {"type": None, "y": 2}, path) == {"type": None, "y": 2}


def test_null_sets_none_and_takes_an_objective_away():
    assert merge({"student": {"weights": "w"}}, {"student": {"weights": None}}) == {"student": {"weights": None}}
    assert merge({"objectives": {"ce": {}, "kd": {}}}, {"objectives": {"kd": None}}) == {"objectives": {"ce": {}}}
    teacher = merge({"teacher": {"objectives": {"ce": {}, "kd": {}}}}, {"teacher": {"objectives": {"kd": None}}})
    assert teacher == {"teacher": {"objectives": {"ce": {}}}}
    # With nothing under it, an empty objective is the objective with its defaults.
    assert merge({"objectives": {"ce": {}}}, {"objectives": {"kd": None}}) == {"objectives": {"ce": {}, "kd": None}}


def test_override_replaces_whole_maps():
    tree = {"train": {"optimizer": {"lr": 0.1, "momentum": 0.5}}}
    assert override(tree, ("train", "optimizer"), {"lr": 1}) == {"train": {"optimizer": {"lr": 1}}}


def test_override_of_a_type_drops_the_keys_beside_it():
    tree = {"train": {"schedule": {"type": "multistep", "milestones": [1]}, "epochs": 2}}
    assert override(tree, ("train", "schedule", "type"), "cosine") == {
        "train": {"schedule": {"type": "cosine"}, "epochs": 2}
    }
    assert override(tree, ("train", "schedule", "type"), "multistep") == tree
    assert override({}, ("train", "schedule", "type"), "cosine") == {"train": {"schedule": {"type": "cosine"}}}


def test_override_with_null():
    tree = {"objectives": {"ce": {}, "kd": {}}, "train": {"ema": 0.9}}
    assert override(tree, ("objectives", "kd"), None)["objectives"] == {"ce": {}}
    assert override(tree, ("objectives", "at"), None)["objectives"] == {"ce": {}, "kd": {}, "at": None}
    assert override(tree, ("train", "ema"), None)["train"] == {"ema": None}


def test_override_inside_lists():
    tree = {"data": {"augment": [{"crop": {"size": 1}}]}}
    assert override(tree, ("data", "augment", 0, "crop", "size"), 2) == {"data": {"augment": [{"crop": {"size": 2}}]}}
    assert override(tree, ("data", "augment", 0), "flip") == {"data": {"augment": ["flip"]}}


def test_teacher_train_is_completed_from_train():
    tree = {"train": {"epochs": 3, "batch": 8}, "teacher": {"model": "m", "train": {"epochs": 5}}}
    assert teacher_train(tree)["teacher"] == {"model": "m", "train": {"epochs": 5, "batch": 8}}


@pytest.mark.parametrize(
    "tree",
    [
        {"train": {"epochs": 3}},
        {"train": {"epochs": 3}, "teacher": None},
        {"train": {"epochs": 3}, "teacher": {"model": "m"}},
        {"train": {"epochs": 3}, "teacher": {"model": "m", "train": None}},
        {"teacher": {"train": {"epochs": 3}}},
        {"train": 3, "teacher": {"train": {"epochs": 3}}},
    ],
)
def test_teacher_train_leaves_the_rest_alone(tree):
    assert teacher_train(tree) == tree


names = st.sampled_from(["a", "b", "c", "type", "objectives"])
maps = st.dictionaries(names, st.none() | st.integers(0, 2), max_size=4)
trees = st.dictionaries(names, st.none() | st.integers(0, 2) | maps, max_size=4)


@given(trees, trees)
def test_merging_changes_neither_side_and_twice_is_once(under, over):
    before = copy.deepcopy((under, over))
    once = merge(under, over)
    assert (under, over) == before
    if not any(isinstance(v, dict) and None in v.values() for v in over.values()):  # a removal is no fixed point
        assert merge(once, over) == once


@given(trees)
def test_nothing_is_the_neutral_element(tree):
    assert merge(tree, {}) == tree
    assert merge({}, tree) == tree
