"""Experiments from files: bases, `--set`, names, dicts, and the way back to YAML."""

import os
import stat

import pytest

from kdray.errors import ConfigError
from kdray.experiment import (
    Experiment,
    digest_of,
    experiment_from_dict,
    get_path,
    load_experiment,
    read_tree,
    set_path,
    to_yaml,
)

BASE = """\
data: {source: cifar100, augment: [pad_crop, flip]}
objectives:
  ce: {weight: 1}
  kd: {weight: 0.9, temperature: 4}
train:
  epochs: 240
  batch: 64
  optimizer: {type: sgd, lr: 5e-2, momentum: 0.8}
  schedule: {type: multistep, milestones: [150, 180, 210]}
"""
CHILD = """\
base: base/common.yaml
seed: 3
teacher: {model: resnet56, weights: w.safetensors}
student: {model: resnet20}
objectives:
  clmkd.class_guided: {weight: 0.8}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "common.yaml").write_text(BASE)
    (tmp_path / "child.yaml").write_text(CHILD)
    return tmp_path


def load(folder, *sets, text=None):
    if text is not None:
        (folder / "child.yaml").write_text(text)
    return load_experiment(folder / "child.yaml", sets)


def error(folder, *sets, text=None):
    with pytest.raises(ConfigError) as caught:
        load(folder, *sets, text=text)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(folder) + os.sep, "")


def test_a_file_over_its_base(folder):
    e = load(folder)
    assert e.seed == 3
    assert e.train.epochs == 240
    assert e.train.optimizer.lr == 0.05
    assert e.objectives == {
        "ce": {"weight": 1},
        "kd": {"weight": 0.9, "temperature": 4},
        "clmkd.class_guided": {"weight": 0.8},
    }
    assert e.name == "child"


def test_a_name_that_is_written_stays(folder):
    assert load(folder, "name=mine").name == "mine"
    assert load(folder, text=CHILD + "name: other\n").name == "other"


def test_the_path_may_be_text(folder):
    assert load_experiment(str(folder / "child.yaml")) == load(folder)


def test_bases_of_bases_are_relative_to_the_file_that_names_them(folder):
    (folder / "base" / "common.yaml").write_text("base: ../root.yaml\n" + BASE)
    (folder / "root.yaml").write_text("seed: 9\ncluster: {max_failures: 7}\ntrain: {epochs: 1}\n")
    e = load(folder)
    assert (e.seed, e.cluster.max_failures, e.train.epochs) == (3, 7, 240)


def test_bases_in_a_circle(folder):
    (folder / "base" / "common.yaml").write_text("seed: 1\nbase: ../child.yaml\n")
    text = error(folder)
    assert text.startswith("base/common.yaml:2: base: bases go in a circle: ")
    assert "child.yaml -> base/common.yaml -> child.yaml" in text
    own = error(folder, text="base: child.yaml\n")
    assert own.startswith("child.yaml:1: base: bases go in a circle: ")


def test_a_missing_base_names_its_neighbours(folder):
    text = error(folder, text=CHILD.replace("common", "comon"))
    assert text.startswith("child.yaml:1: base: no such file base/comon.yaml (did you mean 'common.yaml'?)")
    assert "there is no folder nowhere" in error(folder, text="base: nowhere/x.yaml\n")
    assert "wants the path of one file" in error(folder, text="base: [a.yaml, b.yaml]\n")
    assert "is a folder" in error(folder, text="base: base\n")


def test_an_empty_base_key_is_no_base(folder):
    assert "names neither" in error(folder, text="base:\ndata: {source: digits}\n")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chlid.yaml", r"no such file \(did you mean 'child.yaml'\?\)\. YAML files in .*: child\.yaml"),
        ("base", r"this is a folder.*common\.yaml"),
        ("gone/x.yaml", "there is no folder"),
        ("child.yaml/x.yaml", "there is no folder"),
    ],
)
def test_a_file_that_is_not_there(folder, name, words):
    with pytest.raises(ConfigError, match=words):
        load_experiment(folder / name)


def test_a_folder_without_yaml(tmp_path):
    with pytest.raises(ConfigError, match="There is no YAML file in"):
        load_experiment(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"- a\n- b\n", "an experiment is a map of keys"),
        (b"just text", "an experiment is a map of keys"),
        (b"a: \xff\xfe\n", "not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_experiment(folder, content, words):
    (folder / "child.yaml").write_bytes(content)
    assert words in error(folder)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(folder):
    plain = load(folder)
    (folder / "child.yaml").write_bytes(b"\xef\xbb\xbf" + CHILD.replace("\n", "\r\n").encode())
    assert load(folder) == plain


def test_a_file_that_may_not_be_read(folder, monkeypatch):
    (folder / "child.yaml").chmod(0)

    def refuse(*args, **kwargs):  # root reads everything, so the refusal is played
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    assert error(folder) == "child.yaml: cannot be read: Permission denied. Check the permissions"
    (folder / "child.yaml").chmod(stat.S_IRUSR | stat.S_IWUSR)


def test_another_type_in_a_child_drops_the_keys_of_the_old(folder):
    e = load(folder, text=CHILD + "train: {optimizer: {type: adamw, lr: 1e-3}, schedule: {type: cosine}}\n")
    assert (e.train.optimizer.momentum, e.train.schedule.milestones, e.train.batch) == (0.9, [], 64)


def test_the_teacher_trains_with_the_experiments_recipe_unless_it_says_so(folder):
    assert load(folder).teacher.train is None
    own = load(
        folder, "teacher.train.epochs=300", "teacher.train.optimizer.type=adamw", "teacher.train.optimizer.lr=1"
    ).teacher
    assert (own.train.epochs, own.train.batch, own.train.optimizer.type) == (300, 64, "adamw")
    assert load(folder, "teacher.train={ema: 0.9}").teacher.train.optimizer.momentum == 0.8


def test_errors_name_the_file_and_line_that_gave_the_value(folder):
    assert error(folder, "train.epochs=100").startswith("base/common.yaml:9: train.schedule.milestones: milestone 210")
    assert error(folder, "cluster.workers=3").startswith("base/common.yaml:7: train.batch: batch 64 cannot be split")
    lost = error(folder, "train.optimizer.type=adamw")
    assert lost.startswith("--set train.optimizer.type=adamw: train.optimizer.lr: is missing")
    assert error(folder, "data.source=null").startswith("--set data.source=null: data.source: names no training data")
    unknown = error(folder, text=CHILD + "evaluate:\n  bach: 1\n")
    assert unknown.startswith("child.yaml:8: evaluate.bach: unknown key")


def test_what_the_teacher_has_from_train_is_reported_once(folder):
    text = error(folder, "teacher.train.epochs=300", text=CHILD + "train: {ema: 2}\n")
    assert text == "child.yaml:7: train.ema: 2 is out of range. Give a number below 1"
    assert "child.yaml:7: teacher.train.batch: batch 64 cannot" not in text


def test_what_only_the_teacher_gets_wrong_is_its_own(folder):
    text = error(folder, "teacher.train.epochs=200")
    assert text.startswith(
        "base/common.yaml:9: teacher.train.schedule.milestones: milestone 210 is never reached in 200"
    )


def test_comments_and_layout_change_no_digest(folder):
    digest = digest_of(load(folder))
    other = "# a comment\n" + CHILD.replace("seed: 3\n", "") + "\nseed:   3   # three\nevaluate:\n  batch: 256\n"
    assert digest_of(load(folder, text=other)) == digest
    assert digest_of(load(folder, "train.optimizer.lr=0.050")) == digest
    assert digest_of(load(folder, "train.optimizer.lr=0.051")) != digest


def test_to_yaml_is_read_back_whole(folder):
    e = load(folder, "teacher.train.epochs=300", "student.params={a: {b: [1, 1.0, true, null, '010', no]}}")
    text = to_yaml(e)
    (folder / "child.yaml").write_text(text)
    again = load_experiment(folder / "child.yaml")
    assert again == e
    assert digest_of(again, results_only=False) == digest_of(e, results_only=False)
    assert to_yaml(again) == text
    assert [line.split(":")[0] for line in text.splitlines() if line[0].isalpha()] == list(Experiment.model_fields)


def test_read_tree_is_what_from_dict_takes(folder):
    tree = read_tree(folder / "child.yaml", ["seed=5"])
    assert "base" not in tree
    assert get_path(tree, "train.optimizer.momentum") == 0.8
    assert experiment_from_dict(tree) == load(folder, "seed=5")
    trial = set_path(tree, "objectives.clmkd.class_guided.weight", 0.3)
    assert experiment_from_dict(trial).objectives["clmkd.class_guided"]["weight"] == 0.3


def test_from_dict():
    values = {"data": {"source": "digits"}, "student": {"model": "m"}, "objectives": {"ce": {}}}
    values["train"] = {"epochs": 1, "batch": 8, "optimizer": {"lr": 1}}
    e = experiment_from_dict(values, sets=["seed=4", "train.batch=4"])
    assert (e.name, e.seed, e.train.batch, values["train"]["batch"]) == ("experiment", 4, 4, 8)
    assert experiment_from_dict(e.model_dump()) == e
    with pytest.raises(ConfigError, match=r"^trial 3: train\.epochs: 0 is out of range"):
        experiment_from_dict(set_path(values, "train.epochs", 0), where="trial 3")
    with pytest.raises(ConfigError, match="base works at the top of a file only"):
        experiment_from_dict({**values, "base": "x.yaml"})
    with pytest.raises(ConfigError, match="an experiment is a dict"):
        experiment_from_dict([values])
    with pytest.raises(ConfigError, match="1"):
        experiment_from_dict({**values, 1: 2})
