"""Dotted paths: names with dots, lists, what is made and what is refused."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdray.errors import ConfigError
from kdray.experiment.paths import get_path, resolve, set_path, split_path


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("a", ["a"]),
        ("a.b.c", ["a", "b", "c"]),
        ('a."b.c".d', ["a", "b.c", "d"]),
        ('"a.b"', ["a.b"]),
        ("lr-x_1.0", ["lr-x_1", "0"]),
    ],
)
def test_split(path, parts):
    assert split_path(path) == parts


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", 'a."b', 'a."".b', 'a"b"', '"a"b'])
def test_split_refuses_what_is_no_path(path):
    with pytest.raises(ConfigError, match="not a dotted path"):
        split_path(path)


def test_the_longest_key_that_stands_there_is_taken():
    tree = {"objectives": {"clmkd": {"class_guided": {"weight": 1}}, "clmkd.class_guided": {"weight": 2}}}
    assert resolve(tree, "objectives.clmkd.class_guided.weight") == ("objectives", "clmkd.class_guided", "weight")
    assert get_path(tree, "objectives.clmkd.class_guided.weight") == 2


def test_without_the_long_key_the_short_one_is_walked():
    tree = {"objectives": {"clmkd": {"weight": 1}}}
    keys = resolve(tree, "objectives.clmkd.class_guided.weight")
    assert keys == ("objectives", "clmkd", "class_guided", "weight")
    assert set_path(tree, keys, 3) == {"objectives": {"clmkd": {"weight": 1, "class_guided": {"weight": 3}}}}


def test_what_is_not_there_is_made():
    assert set_path({}, "objectives.kd.weight", 1) == {"objectives": {"kd": {"weight": 1}}}
    assert set_path({"train": None}, "train.schedule.type", "cosine") == {"train": {"schedule": {"type": "cosine"}}}
    quoted = set_path({"objectives": {}}, 'objectives."clmkd.class_guided".weight', 1)
    assert quoted == {"objectives": {"clmkd.class_guided": {"weight": 1}}}


def test_lists_take_numbers():
    tree = {"data": {"augment": ["flip", {"crop": {"size": 2}}]}}
    assert get_path(tree, "data.augment.0") == "flip"
    assert set_path(tree, "data.augment.1.crop.size", 3)["data"]["augment"] == ["flip", {"crop": {"size": 3}}]


@pytest.mark.parametrize("index", ["2", "-1", "x", "²"])
def test_lists_take_only_the_numbers_they_have(index):
    with pytest.raises(ConfigError, match="Count from 0 to 1"):
        set_path({"a": [1, 2]}, f"a.{index}", 0)


def test_an_empty_list_takes_none():
    with pytest.raises(ConfigError, match="it is empty"):
        resolve({"a": []}, "a.0")


def test_a_scalar_holds_no_keys():
    with pytest.raises(ConfigError, match=r"train\.batch is 64.*\{x: \.\.\.\}"):
        set_path({"train": {"batch": 64}}, "train.batch.x", 1)
    with pytest.raises(ConfigError, match=r"\{flip: \{p: \.\.\.\}\}"):
        set_path({"augment": ["flip"]}, "augment.0.p", 1)
    with pytest.raises(ConfigError, match="64 holds no key"):
        set_path({"train": 64}, ("train", "x"), 1)


def test_get_names_the_nearest_key():
    with pytest.raises(ConfigError, match=r"no key 'epoch' \(did you mean 'epochs'\?\)") as caught:
        get_path({"train": {"epochs": 3}}, "train.epoch")
    assert caught.value.where == "train.epoch"
    with pytest.raises(ConfigError, match="no key 'x'"):
        get_path({"train": None}, "train.x")


def test_set_leaves_the_given_tree_alone():
    tree = {"a": {"b": [1, {"c": 2}]}, "d": {"e": 1}}
    before = copy.deepcopy(tree)
    after = set_path(tree, "a.b.1.c", 3)
    assert tree == before
    assert after == {"a": {"b": [1, {"c": 3}]}, "d": {"e": 1}}


names = st.text(alphabet="abc", min_size=1, max_size=3)
trees = st.recursive(st.integers(), lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3), max_leaves=10)


@given(st.dictionaries(names, trees, min_size=1, max_size=3), st.data())
def test_what_is_set_is_got_and_the_rest_stays(tree, data):
    keys, node = [], tree
    while isinstance(node, dict):
        keys.append(data.draw(st.sampled_from(sorted(node))))
        node = node[keys[-1]]
        if data.draw(st.booleans()):
            break
    path = ".".join(keys)
    after = set_path(tree, path, "new")
    assert get_path(after, path) == "new"
    assert set_path(after, path, get_path(tree, path)) == tree
