"""`variants:`: partial experiments laid over the rest of their file, each whole and checked, named in errors."""

import os

import pytest

from kdray.errors import ConfigError
from kdray.experiment import (
    comparison_from_dict,
    digest_of,
    experiment_from_dict,
    load_comparison,
    load_experiment,
    place_of,
    read_tree,
    to_yaml,
)

TOP = """\
data: {source: cifar100, augment: [pad_crop, flip]}
teacher: {model: resnet56}
student: {model: resnet20}
train:
  epochs: 240
  batch: 64
  optimizer: {type: sgd, lr: 5e-2}
  schedule: {type: multistep, milestones: [150, 180]}
"""
VARIANTS = """\
variants:
  ce: {objectives: {ce: {}}}
  kd:
    objectives: {ce: {weight: 0.1}, kd: {weight: 0.9}}
  wide:
    objectives: {ce: {}, kd: {}}
    student: {params: {width: 2}}
    teacher: {weights: w.safetensors}
    seed: 7
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "x.yaml").write_text(TOP + VARIANTS)
    return tmp_path


def load(folder, *sets, text=None, only=None):
    if text is not None:
        (folder / "x.yaml").write_text(text)
    return load_comparison(folder / "x.yaml", sets, only).experiments


def error(folder, *sets, text=None, only=None):
    with pytest.raises(ConfigError) as caught:
        load(folder, *sets, text=text, only=only)
    return str(caught.value).replace(str(folder) + os.sep, "")


def test_each_variant_is_the_experiment_that_a_file_of_its_own_would_be(folder):
    found = load(folder)
    assert list(found) == ["ce", "kd", "wide"]
    assert {e.name for e in found.values()} == {"x"}
    assert found["kd"].objectives == {"ce": {"weight": 0.1}, "kd": {"weight": 0.9}}
    wide = found["wide"]
    assert (wide.student.model, wide.student.params, wide.seed) == ("resnet20", {"width": 2}, 7)
    assert (wide.teacher.model, wide.teacher.weights) == ("resnet56", "w.safetensors")
    assert found["ce"].teacher.weights is None
    alone = TOP + "objectives: {ce: {weight: 0.1}, kd: {weight: 0.9}}\nname: x\n"
    (folder / "alone.yaml").write_text(alone)
    assert load_experiment(folder / "alone.yaml") == found["kd"] == load_experiment(folder / "x.yaml", (), "kd")


def test_a_file_without_variants_is_one_experiment(folder):
    for more in ("", "variants:\n", "variants: {}\n"):
        found = load(folder, text=TOP + "objectives: {ce: {}}\n" + more)
        assert list(found) == [""] and found[""] == load_experiment(folder / "x.yaml")
    assert not load_comparison(folder / "x.yaml").has_variants


def test_maps_merge_lists_and_scalars_replace_and_types_start_anew(folder):
    text = TOP + "objectives: {ce: {}, kd: {temperature: 2}}\nvariants:\n  a: {}\n"
    text += "  b: {data: {augment: [flip]}, train: {optimizer: {type: adamw, lr: 1e-3}, schedule: {type: cosine}}}\n"
    text += "  c: {objectives: {kd: null, dkd: }}\n"
    found = load(folder, text=text)
    assert found["a"] == load_experiment(folder / "x.yaml", ["variants=null"])
    b = found["b"]
    assert b.data.augment == ["flip"] and b.data.source == "cifar100"
    assert (b.train.optimizer.type, b.train.schedule.milestones, b.train.epochs) == ("adamw", [], 240)
    assert found["c"].objectives == {"ce": {}, "dkd": {}}


def test_the_teachers_own_train_is_completed_from_the_variants(folder):
    text = TOP.replace("resnet56}", "resnet56, train: {batch: 32}}") + "objectives: {ce: {}}\n"
    found = load(folder, text=text + "variants: {a: {train: {epochs: 200}}, b: {teacher: {train: {epochs: 300}}}}\n")
    assert (found["a"].teacher.train.epochs, found["a"].teacher.train.batch) == (200, 32)
    assert (found["b"].teacher.train.epochs, found["b"].train.epochs) == (300, 240)


# -- bases -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def child(folder):
    """A file over x.yaml, whose text the test gives."""

    def write(text):
        (folder / "x.yaml").write_text(TOP + VARIANTS)
        (folder / "child.yaml").write_text("base: x.yaml\n" + text)
        return load_comparison(folder / "child.yaml").experiments

    return write


def test_variants_of_a_base_are_merged(child):
    found = child("variants: {kd: {objectives: {kd: {temperature: 2}}}, new: {objectives: {ce: {}}, seed: 3}}\n")
    assert list(found) == ["ce", "kd", "wide", "new"]
    assert found["kd"].objectives == {"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 2}}
    assert found["new"].seed == 3


def test_null_takes_an_inherited_variant_away(child):
    assert list(child("variants: {ce: null, wide: null}\n")) == ["kd"]
    with pytest.raises(ConfigError, match=r"child.yaml:2: variants.dk: there is no variant 'dk' to take away.*'kd'"):
        child("variants: {dk: null}\n")


def test_null_takes_away_the_objective_of_a_layer_below_wherever_it_comes_from(child):
    assert child("variants: {kd: {objectives: {ce: null}}}\n")["kd"].objectives == {"kd": {"weight": 0.9}}
    found = child("objectives: {at: {}}\nvariants: {kd: {objectives: {at: null, ce: null, sp: }}}\n")
    assert found["kd"].objectives == {"kd": {"weight": 0.9}, "sp": {}}
    assert set(found["ce"].objectives) == {"at", "ce"}


def test_what_a_child_says_at_its_top_is_for_all_variants_and_theirs_stays(child):
    found = child("seed: 5\nstudent: {model: vgg8}\n")
    assert {e.student.model for e in found.values()} == {"vgg8"}
    assert [e.seed for e in found.values()] == [5, 5, 7]


# -- the command line --------------------------------------------------------------------------------------------------


def test_sets_reach_into_a_variant(folder):
    found = load(folder, "variants.kd.objectives.kd.temperature=2", "variants.ce.train.optimizer.lr=1")
    assert found["kd"].objectives["kd"] == {"weight": 0.9, "temperature": 2}
    assert found["ce"].train.optimizer.lr == 1 and found["wide"].train.optimizer.lr == 0.05


def test_a_set_at_the_top_is_for_all_whatever_the_order(folder):
    for sets in (["seed=3", "variants.kd.seed=4"], ["variants.kd.seed=4", "seed=3"]):
        assert [e.seed for e in load(folder, *sets).values()] == [3, 4, 7]
    assert {e.storage for e in load(folder, "storage=s3://b/r").values()} == {"s3://b/r"}


def test_sets_make_and_remove_variants(folder):
    found = load(folder, "variants.new={objectives: {ce: {weight: 2}}}", "variants.wide=null")
    assert list(found) == ["ce", "kd", "new"] and found["new"].objectives == {"ce": {"weight": 2}}
    assert load(folder, "variants.kd={objectives: {ce: {}}}")["kd"].objectives == {"ce": {}}
    assert list(load(folder, "variants={only: {objectives: {ce: {}}}}")) == ["only"]
    assert load(folder, "variants.wide.objectives.kd=null")["wide"].objectives == {"ce": {}}
    assert load(folder, "variants.wide.objectives={ce: {}}")["wide"].objectives == {"ce": {}}


def test_a_name_with_dots_is_the_longest_that_stands_there(folder):
    text = TOP + "variants:\n  kd.v2: {objectives: {clmkd.class_guided: {}}}\n"
    found = load(folder, "variants.kd.v2.objectives.clmkd.class_guided.weight=0.3", text=text)
    assert found["kd.v2"].objectives == {"clmkd.class_guided": {"weight": 0.3}}


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("variants.dk.seed=1", "no variant 'dk' (did you mean 'kd'?). Variants: ce, kd, wide"),
        ("variants.kd.storage=x", "storage is not a variant's to change"),
        ("variants.kd.sed=1", "unknown key 'sed' (did you mean 'seed'?)"),
        ("variants.kx=null", "there is no variant 'kx' to take away"),
        ("variants.kx=3", "wants a map, but 3 stands there"),
        ("variants=3", "wants a map, but 3 stands there"),
        ("variants.kd.train.epochs=0", "variants.kd.train.epochs: 0 is out of range"),
    ],
)
def test_a_wrong_set_of_a_variant_names_itself(folder, sets, words):
    text = error(folder, sets)
    assert text.startswith(f"--set {sets}: ") and words in text


def test_a_selection(folder):
    assert list(load(folder, only=["wide", "ce"])) == ["ce", "wide"]
    assert error(folder, only=["ce", "dk"]) == "--variant: no variant 'dk' (did you mean 'kd'?). Variants: ce, kd, wide"
    assert "the experiment has no variants" in error(folder, text=TOP + "objectives: {ce: {}}\n", only=["ce"])
    # What is not selected is checked all the same.
    assert "variants.kd.seed" in error(folder, "variants.kd.seed=-1", only=["ce"], text=TOP + VARIANTS)


def test_one_experiment_of_many_has_to_be_named(folder):
    with pytest.raises(ConfigError, match=r"has 3 variants. Name one of ce, kd, wide"):
        load_experiment(folder / "x.yaml")


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("kd: {storage: here}", "x.yaml:10: variants.kd.storage: storage is not a variant's to change. Move it"),
        ("kd: {name: n}", "variants.kd.name: name is not a variant's to change"),
        ("kd: {cluster: {workers: 2}}", "variants.kd.cluster: cluster is not a variant's to change"),
        ("kd: {variants: {}}", "variants.kd.variants: variants is not a variant's to change"),
        ("kd: {base: b.yaml}", "variants.kd.base: base is not a variant's to change"),
        ("kd: {objektives: {}}", "variants.kd.objektives: unknown key 'objektives' (did you mean 'objectives'?)"),
        ("kd: 3", "x.yaml:10: variants.kd: wants a map, but 3 stands there"),
        ("kd: {train: {epoch: 3}}", "x.yaml:10: variants.kd.train.epoch: unknown key 'epoch' (did you mean 'epochs'?)"),
        ("'k d': {}", "cannot be a name"),
        ("'..': {}", "cannot be a name"),
        # The line is that of the milestones, the variant is the one that does not reach them.
        ("kd: {train: {epochs: 100}, objectives: {ce: {}}}", "x.yaml:8: variants.kd.train.schedule.milestones: mile"),
        ("kd: {objectives: {ce: {}}, student: {width: 3}}", "x.yaml:10: variants.kd.student.width: unknown key"),
        ("kd: {objectives: {}}", "x.yaml:10: variants.kd.objectives: a student needs objectives"),
    ],
)
def test_errors_name_the_variant_and_its_line(folder, part, words):
    assert words in error(folder, text=TOP + f"variants:\n  {part}\n  fine: {{objectives: {{ce: {{}}}}}}\n")


def test_what_is_wrong_for_all_is_told_once_where_it_stands(folder):
    text = error(folder, text=TOP.replace("batch: 64", "batch: 0") + VARIANTS)
    assert text.startswith("x.yaml:6: train.batch: 0 is out of range") and "\n" not in text
    text = error(folder, text=TOP + "variants: {a: {seed: 1}, b: {seed: 2}}\n")
    assert text.startswith("x.yaml: objectives: a student needs objectives") and "\n" not in text
    text = error(folder, text=TOP + "variants: {a: {seed: -1}, b: {seed: -1}}\n")
    assert "variants.a.seed" in text and "variants.b.seed" in text


def test_several_wrong_variants_are_all_told(folder):
    text = error(folder, "variants.ce.seed=-1", "variants.kd.train.ema=2")
    assert len(text.splitlines()) == 2 and "variants.ce.seed" in text and "variants.kd.train.ema" in text


def test_a_misspelt_variants_key(folder):
    assert "unknown key 'variant' (did you mean 'variants'?)" in error(folder, text=TOP + "variant: {}\n")


def test_variants_that_are_no_map(folder):
    assert error(folder, text=TOP + "variants: [ce, kd]\n").startswith("x.yaml:9: variants: wants a map")


def test_places_are_known_after_the_file_was_read(folder):
    path = folder / "x.yaml"
    lines = {
        "variants.kd.objectives.kd": 12,
        "variants.kd.student.model": 3,
        "variants.wide.student.model": 3,
        "variants.wide.student.params": 15,
        "variants.wide.teacher.train.batch": 6,
        "train.batch": 6,
        "variants.kd.evaluate.batch": 11,
    }
    for key, line in lines.items():
        assert place_of(path, [], key) == f"{path}:{line}", key
    assert place_of(path, ["variants.kd.seed=1"], "variants.kd.seed") == "--set variants.kd.seed=1"
    assert place_of(path, ["seed=1"], "variants.kd.seed") == "--set seed=1"
    assert place_of(path, ["seed=1"], "variants.wide.seed") == f"{path}:17"


# -- the way back ------------------------------------------------------------------------------------------------------


def test_to_yaml_and_read_tree_are_read_back_whole(folder):
    top = TOP + "objectives: {at: {}}\nstorage: here\ncluster: {workers: 2}\n"
    (folder / "x.yaml").write_text(
        top + VARIANTS.replace("ce: {objectives: {ce: {}}}", "ce: {objectives: {at: null, ce: }}")
    )
    comparison = load_comparison(folder / "x.yaml", ["variants.kd.teacher=null"])
    assert comparison_from_dict(read_tree(folder / "x.yaml", ["variants.kd.teacher=null"])) == comparison
    text = to_yaml(comparison)
    (folder / "again.yaml").write_text(text)
    again = load_comparison(folder / "again.yaml")
    assert again == comparison and to_yaml(again) == text
    for name, experiment in comparison.experiments.items():
        assert digest_of(again.experiments[name]) == digest_of(experiment)
    assert comparison_from_dict(comparison.plain()) == comparison
    assert (comparison.storage, comparison.cluster.workers, comparison.name) == ("here", 2, "x")


def test_from_dict(folder):
    values = read_tree(folder / "x.yaml")
    with pytest.raises(ConfigError, match="trial: has 3 variants"):
        experiment_from_dict(values, where="trial")
    one = {**values, "variants": {"kd": values["variants"]["kd"]}}
    assert experiment_from_dict(one) == load_experiment(folder / "x.yaml", (), "kd")
    assert comparison_from_dict(values, "trial", ["variants.kd.seed=2"]).experiments["kd"].seed == 2
    values["variants"]["kd"]["seed"] = -1
    with pytest.raises(ConfigError, match=r"^trial: variants.kd.seed: -1 is out of range"):
        comparison_from_dict(values, "trial")
