"""Every kind of bad value ends in one line with the key, the value, the nearest choice and the way out."""

import pytest

from kdray.errors import ConfigError
from kdray.experiment import experiment_from_dict
from kdray.experiment.explain import MOST_LINES, show
from kdray.experiment.lookup import default_type, part_at, places_of, valid_keys
from kdray.experiment.schema import Optimizer, Train

VALUES = {
    "data": {"source": "digits"},
    "student": {"model": "m"},
    "objectives": {"ce": {}},
    "train": {"epochs": 10, "batch": 8, "optimizer": {"lr": 0.1}},
}


def error(*sets, **changes):
    with pytest.raises(ConfigError) as caught:
        experiment_from_dict({**VALUES, **changes}, "x", sets)
    text = str(caught.value)
    return text.removeprefix(f"--set {sets[0]}: ") if sets else text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.epochs=1e2", "train.epochs: wants a whole number, but 100.0 stands there. Write 100"),
        ("train.epochs=2.5", "train.epochs: wants a whole number, but 2.5 stands there. Write a whole number"),
        ("train.epochs='3'", 'train.epochs: wants a whole number, but "3" stands there. Write 3 without quotes'),
        ("train.epochs='3.5'", 'train.epochs: wants a whole number, but "3.5" stands there. Write a whole number'),
        ("train.epochs=true", "train.epochs: wants a whole number, but true stands there. Write a whole number"),
        ("train.epochs=", "train.epochs: has no value (null). Write a value"),
        ("train.epochs=0", "train.epochs: 0 is out of range. Give a number of at least 1"),
        (
            "train.optimizer.lr='1e-3'",
            'train.optimizer.lr: wants a number, but "1e-3" stands there. Write 1e-3 without quotes',
        ),
        ("train.optimizer.lr=12:30", 'train.optimizer.lr: wants a number, but "12:30" stands there. Write a number'),
        ("train.optimizer.lr=1_0.5", 'train.optimizer.lr: wants a number, but "1_0.5" stands there. Write a number'),
        ("train.optimizer.lr=[1]", "train.optimizer.lr: wants a number, but [1] stands there. Write a number"),
        ("train.optimizer.lr=0", "train.optimizer.lr: 0 is out of range. Give a number above 0"),
        ("data.validation=1", "data.validation: 1 is out of range. Give a number below 1"),
        (
            "seed=9223372036854775808",
            "seed: 9223372036854775808 is out of range. Give a number of at most 9223372036854775807",
        ),
        ("train.compile=no", 'train.compile: wants true or false, but "no" stands there. Write false'),
        ("train.compile=On", 'train.compile: wants true or false, but "On" stands there. Write true'),
        ("train.compile='true'", 'train.compile: wants true or false, but "true" stands there. Write true'),
        ("train.compile=1", "train.compile: wants true or false, but 1 stands there. Write true or false"),
        ("student.model=56", "student.model: wants text, but 56 stands there. Put it in quotes"),
        ("student.model=[a]", 'student.model: wants text, but ["a"] stands there. Write text'),
        ("student.model=''", "student.model: is empty. Write a value, or remove the key"),
        ("student.stages=layer1", 'student.stages: wants a list, but "layer1" stands there. Write ["layer1"]'),
        ("student.stages={a: 1}", 'student.stages: wants a list, but {"a": 1} stands there. Write [a, b]'),
        ("student.stages=[]", "student.stages: is empty. Write a value, or remove the key"),
        ("student=resnet8", 'student: wants a map of keys, but "resnet8" stands there. Write {model: resnet8}'),
        ("train.optimizer=sgd", 'train.optimizer: wants a map of keys, but "sgd" stands there. Write {type: sgd}'),
        (
            "evaluate=3",
            "evaluate: wants a map of keys, but 3 stands there. Write key: value lines; the keys are batch, precision, "
            "linear_probe",
        ),
        (
            "name=a/b",
            'name: "a/b" cannot be a name. Write one of 1 to 100 letters, digits, dots, dashes or underscores',
        ),
        (
            "train.precision=FP61",
            "train.precision: \"FP61\" is not a choice (did you mean 'fp16'?). Choose one of auto, fp32, bf16, fp16",
        ),
        (
            "cluster.device=gpu",
            "cluster.device: \"gpu\" is not a choice (did you mean 'cuda'?). Choose one of auto, cpu, cuda",
        ),
        (
            "train.precision=16",
            "train.precision: 16 is not a choice (did you mean 'fp16'?). Choose one of auto, fp32, bf16, fp16",
        ),
        ("data.mean=3", "data.mean: wants 3 numbers, but 3 stands there. Write [r, g, b], for pixels in 0..1"),
        ("objectives=ce", 'objectives: wants a map of objectives, but "ce" stands there. Write {ce: {weight: 1}}'),
    ],
)
def test_what_is_said_of_a_value(text, said):
    assert error(text) == said


def test_unknown_keys_name_the_nearest_or_where_the_key_belongs_or_all():
    assert error("train.optimizer.momentun=1").startswith(
        "train.optimizer.momentun: unknown key 'momentun' (did you mean 'momentum'?). Valid keys here: type, lr,"
    )
    assert error("train.Epochs=1").startswith("train.Epochs: unknown key 'Epochs' (did you mean 'epochs'?)")
    assert error("lr=1").endswith("linear_probe.lr or train.optimizer.lr or teacher.train.optimizer.lr")
    assert error("zzz=1").startswith("zzz: unknown key 'zzz'. Valid keys here: name, seed, data,")


def test_missing_keys_say_where_they_go():
    assert error(train={"epochs": 1, "optimizer": {"lr": 1}}) == "x: train.batch: is missing. Add batch under train"
    assert error(student={}) == "x: student.model: is missing. Add model under student"
    without = {key: value for key, value in VALUES.items() if key != "data"}
    with pytest.raises(ConfigError, match=r"x: data: is missing\. Add data at the top"):
        experiment_from_dict(without, "x")


def test_all_is_said_up_to_a_limit():
    keys = [f"zz{i}" for i in range(MOST_LINES + 2)]
    lines = error(**dict.fromkeys(keys, 1)).split("\n")
    assert len(lines) == MOST_LINES
    assert all(line.startswith(f"x: {key}: unknown key") for key, line in zip(keys, lines, strict=False))
    assert lines[-1].endswith("(and 2 more)")
    assert error(zz0=1, zz1=1).count("\n") == 1
    assert "\n" not in error(zz0=1)


def test_values_are_shown_short():
    assert show({"a": [1, None, True]}) == '{"a": [1, null, true]}'
    assert show("é") == '"é"'
    assert len(show("x" * 100)) == 60
    assert show({1}) == "{1}"


def test_the_schema_answers_questions():
    assert part_at(("teacher", "train", "optimizer")) is Optimizer
    assert part_at(("train",)) is Train
    assert part_at(("student", "params")) is None
    assert part_at(("nothing", "here")) is None
    assert valid_keys(("evaluate",)) == ["batch", "precision", "linear_probe"]
    assert valid_keys(("objectives",)) == []
    assert default_type(("data",)) is None
    assert default_type(("objectives", "kd", "other")) is None
    assert places_of("lr") == ["evaluate.linear_probe.lr", "train.optimizer.lr", "teacher.train.optimizer.lr"]
    assert places_of("nothing") == []
