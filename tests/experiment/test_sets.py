"""`--set path=value`: what it reaches, in which order, and what is said of a bad one."""

import pytest

from kdray.errors import ConfigError
from kdray.experiment import load_experiment

FILE = """\
data: {source: cifar100, augment: [pad_crop, flip]}
student: {model: resnet20}
objectives:
  ce: {weight: 1}
  kd: {weight: 0.9, temperature: 4}
  clmkd.class_guided: {weight: 0.8}
train:
  epochs: 240
  batch: 64
  optimizer: {type: sgd, lr: 5e-2, momentum: 0.8}
  schedule: {type: multistep, milestones: [150, 180, 210]}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "experiment.yaml").write_text(FILE)
    return tmp_path


def load(folder, *sets):
    return load_experiment(folder / "experiment.yaml", sets)


def error(folder, *sets):
    with pytest.raises(ConfigError) as caught:
        load(folder, *sets)
    return str(caught.value)


def test_sets_are_yaml_values_and_later_ones_win(folder):
    sets = [
        "seed=1",
        "train.optimizer.lr=1e-3",
        "data.augment=[flip]",
        "train.compile=true",
        "seed=7",
        "train.ema=null",
    ]
    e = load(folder, *sets, "storage=s3://bucket/a=b", "train.schedule.milestones=[1, 2]")
    assert (e.seed, e.train.optimizer.lr, e.data.augment, e.train.compile) == (7, 1e-3, ["flip"], True)
    assert (e.storage, e.train.schedule.milestones) == ("s3://bucket/a=b", [1, 2])


def test_sets_reach_names_with_dots_and_list_items(folder):
    e = load(
        folder,
        "objectives.clmkd.class_guided.weight=0.1",
        "data.augment.0={pad_crop: {pad: 2}}",
        "data.augment.0.pad_crop.pad=3",
    )
    assert e.objectives["clmkd.class_guided"] == {"weight": 0.1}
    assert e.data.augment == [{"pad_crop": {"pad": 3}}, "flip"]


def test_sets_add_and_take_away_objectives(folder):
    e = load(folder, "objectives.at.weight=1000", "objectives.kd=null", "objectives.rkd=")
    assert e.objectives == {
        "ce": {"weight": 1},
        "clmkd.class_guided": {"weight": 0.8},
        "at": {"weight": 1000},
        "rkd": {},
    }


def test_a_set_map_replaces_the_whole_map(folder):
    assert load(folder, "train.optimizer={lr: 1}").train.optimizer.momentum == 0.9


@pytest.mark.parametrize("order", [1, -1])
def test_a_set_type_goes_before_the_keys_beside_it(folder, order):
    sets = ["train.optimizer.type=adamw", "train.optimizer.lr=1e-3", "train.optimizer.betas=[0.8, 0.9]"]
    e = load(folder, *sets[::order])
    assert (e.train.optimizer.type, e.train.optimizer.lr, e.train.optimizer.betas) == ("adamw", 1e-3, (0.8, 0.9))


def test_a_set_type_after_a_set_map_still_comes_last(folder):
    whole = "train.schedule={type: multistep, milestones: [9]}"
    assert load(folder, whole, "train.schedule.type=cosine").train.schedule.type == "cosine"
    assert load(folder, "train.schedule.type=cosine", whole).train.schedule.milestones == [9]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed", "--set seed: wants path=value"),
        ("x" * 300, "--set " + "x" * 197 + "...: wants path=value"),
        ("=1", "--set =1: wants path=value"),
        ("a..b=1", "--set a..b=1: 'a..b' is not a dotted path"),
        ("base=x.yaml", "--set base=x.yaml: base cannot be set"),
        ("seed=[1", "--set seed=[1: not YAML"),
        ("train.batch=010", "--set train.batch=010: train.batch: 010 is ambiguous"),
        (
            "student={params: {a: .inf}}",
            "--set student={params: {a: .inf}}: student.params.a: .inf is not a finite number",
        ),
        ("train.batch.x=1", "--set train.batch.x=1: train.batch is 64"),
        ("data.augment.2=flip", "--set data.augment.2=flip: data.augment is a list"),
        ("trian.epochs=1", "--set trian.epochs=1: trian: unknown key 'trian' (did you mean 'train'?)"),
        ("seed=x", '--set seed=x: seed: wants a whole number, but "x" stands there'),
        ("data={source: digits, vews: 2}", "data.vews: unknown key 'vews' (did you mean 'views'?)"),
    ],
)
def test_a_bad_set_is_named(folder, text, words):
    assert words in error(folder, text)


@pytest.mark.parametrize("key", ["storage", "data.train", "teacher.weights", "data.pack.source"])
def test_keys_in_a_uri_are_refused_and_not_told(folder, key):
    said = error(folder, f"{key}=s3://AKIA:hun/ter2@bucket/p")
    assert "keys stand in the URI" in said and "AWS_ACCESS_KEY_ID" in said
    assert "AKIA" not in said and "ter2" not in said
