"""What YAML text is read as: the traps of YAML 1.1, duplicate keys, lines, and the way back."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kdray.errors import ConfigError
from kdray.experiment.yaml_text import MAX_VALUES, dump, parse


def read(text):
    return parse(text, "x.yaml").value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("1e+3", 1e3),
        (".5", 0.5),
        ("5.", 5.0),
        ("-2.5e-7", -2.5e-7),
        ("+.5", 0.5),
        ("0.1", 0.1),
        ("!!float 3", 3.0),
    ],
)
def test_floats_however_they_are_written(text, value):
    got = read(text)
    assert got == value
    assert type(got) is float


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("10", 10), ("-3", -3), ("+7", 7), ("50_000", 50000), ("!!int 3", 3)]
)
def test_whole_numbers_are_decimal(text, value):
    got = read(text)
    assert got == value
    assert type(got) is int


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("False", False), ("TRUE", True), ("~", None), ("null", None)]
)
def test_true_false_and_null(text, value):
    assert read(text) is value


TEXTS = "yes no on off y N 12:30 1:30:00.5 2024-01-01 1_000.5 1__0 = e5 . 0x s3://b/x nan inf tRUE"


@pytest.mark.parametrize("text", TEXTS.split())
def test_what_stays_text(text):
    assert read(text) == text


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("010", 10),
        ("-07", -7),
        ("0x1F", 31),
        ("0X1f", 31),
        ("0o17", 15),
        ("0b101", 5),
        ("00", 0),
        ("08", 8),
        ("0_1", 1),
    ],
)
def test_numbers_that_readers_differ_on_are_errors_naming_both_ways_out(text, number):
    with pytest.raises(ConfigError) as caught:
        read(f"a: 1\ntrain:\n  batch: {text}\n")
    assert caught.value.where == "x.yaml:3: train.batch"
    assert f'Write {number}, or "{text}"' in str(caught.value)
    assert read(f'"{text}"') == text


@pytest.mark.parametrize("text", [".inf", "-.Inf", ".nan", "1e999", "-1e999"])
def test_numbers_that_are_not_finite_are_errors(text):
    with pytest.raises(ConfigError, match=r"x\.yaml:1: a: .* is not a finite number"):
        read(f"a: {text}")


def test_a_duplicate_key_names_both_lines():
    with pytest.raises(ConfigError) as caught:
        read("train:\n  epochs: 1\n  batch: 2\n  epochs: 3\n")
    assert str(caught.value) == "x.yaml:4: train.epochs: the key 'epochs' is given on lines 2 and 4. Keep one of them"


@pytest.mark.parametrize("key", ["1", "1e-3", "true", "null", "010", "~"])
def test_keys_are_text(key):
    with pytest.raises(ConfigError, match="is not text"):
        read(f"a:\n  {key}: x\n")


def test_a_key_that_is_a_list_is_an_error():
    with pytest.raises(ConfigError, match="a key must be text"):
        read("[a, b]: x\n")


def test_yes_is_a_fine_key():
    assert read("on: 1\nyes: 2\n") == {"on": 1, "yes": 2}


def test_anchors_aliases_and_merge_keys():
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\nd: {<<: [{x: 5}, *a], z: 0}\n"
    assert read(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1, "y": 3},
        "d": {"x": 5, "y": 2, "z": 0},
    }


def test_aliases_make_separate_values():
    value = read("a: &a [1]\nb: *a\n")
    value["a"].append(2)
    assert value["b"] == [1]


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a {<<: *a}"])
def test_a_value_that_contains_itself_is_an_error(text):
    with pytest.raises(ConfigError, match="contain itself"):
        read(text)


def test_a_small_file_cannot_blow_up():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(ConfigError, match=f"more than {MAX_VALUES} values"):
        read("\n".join(lines))


@pytest.mark.parametrize("depth", [150, 2000])  # past our own limit, past the parser's
def test_deep_nesting_is_a_clear_error(depth):
    with pytest.raises(ConfigError, match="nested too deeply"):
        read("[" * depth + "]" * depth)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb:\n\tc: 2\n", 3, "spaces, not tabs"),
        ("a: [1, 2\n", 2, "not YAML"),
        ("a: 1\n b: 2\n", 2, "not YAML"),
        ("a: @x\n", 1, "in quotes"),
        ("a: *b\n", 1, "undefined alias"),
        ("a: 1\n---\nb: 2\n", 2, "second ---"),
        ("a: b: c\n", 1, "in quotes|quote text"),
        ("a: !!python/object:os.system x\n", 1, "cannot be read as"),
        ("a: !!set {x}\n", 1, "!!set is not known"),
        ("a: !!bool yes\n", 1, "cannot be read as !!bool"),
        ("a: !!int 3.5\n", 1, "cannot be read as !!int"),
        ("a: {<<: 3}\n", 1, "merges maps only"),
    ],
)
def test_broken_text_is_one_error_with_the_line(text, line, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read(text)
    assert caught.value.where.startswith(f"x.yaml:{line}")


@pytest.mark.parametrize("text", ['a: "\\ud800"', '"\\udfff": a'])
def test_half_a_character_is_a_clear_error(text):
    with pytest.raises(ConfigError, match="half a surrogate pair"):
        read(text)


def test_control_characters_are_a_clear_error():
    with pytest.raises(ConfigError, match="UTF-8"):
        read("a: \x00")


def test_every_key_knows_its_line():
    document = parse("a: 1\nb:\n  c:\n  - x\n  - {d: 2}\ne: &e {f: 1}\ng:\n  <<: *e\n", "x.yaml")
    assert document.place(("a",)) == "x.yaml:1"
    assert document.place(("b", "c")) == "x.yaml:3"
    assert document.place(("b", "c", 1, "d")) == "x.yaml:5"
    assert document.place(("b", "nothing", "here")) == "x.yaml:2"
    assert document.place(("g", "f")) == "x.yaml:6"
    assert document.holds(("b", "c", 1, "d"))
    assert document.holds(("g", "f"))
    assert not document.holds(("b", "c", 2))
    assert not document.holds(("b", "c", "x"))
    assert not document.holds(("a", "x"))


words = st.text(max_size=12) | st.from_regex(r"[-+0-9.eExXob_:yntf~ ]{1,8}", fullmatch=True)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


def same(a, b):
    """Equal in type too: 1, 1.0 and True differ."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return math.copysign(1, a) == math.copysign(1, b) and a == b
    return a == b


@given(plain)
def test_dump_is_read_back_to_the_same_value(value):
    assert same(read(dump(value)), value)


@given(st.text(alphabet="0123456789+-.eExob_:~yn", min_size=1, max_size=8))
def test_a_plain_scalar_is_never_silently_another_number(text):
    """What is read as a number is the number that Python reads in the same text."""
    try:
        value = read(f"- {text}\n")[0]
    except ConfigError:
        return
    if isinstance(value, int | float):
        assert value == float(text)


def test_the_library_itself_is_not_changed():
    """Our resolvers stand on subclasses; yaml.safe_load elsewhere in the process is as ever."""
    assert yaml.safe_load("[no, 010, 1e-3]") == [False, 8, "1e-3"]
