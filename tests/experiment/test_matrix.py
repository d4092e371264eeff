"""`matrix:`: an experiment for every combination of the values of its axes, checked, named in errors as it stands."""

import os

import pytest

from kdray.errors import ConfigError
from kdray.experiment import (
    comparison_from_dict,
    experiment_from_dict,
    load_comparison,
    load_experiment,
    place_of,
    read_tree,
    to_yaml,
)
from kdray.experiment.load import written_at

TOP = """\
data: {source: cifar100, augment: [pad_crop, flip]}
train:
  epochs: 240
  batch: 64
  optimizer: {type: sgd, lr: 5e-2}
  schedule: {type: multistep, milestones: [150, 180]}
"""
MATRIX = """\
matrix:
  method:
    kd: {objectives: {ce: {weight: 0.1}, kd: {weight: 0.9}}}
    crd:
      objectives: {ce: {}, crd: {}}
  pair:
    r56-r20: {teacher: {model: resnet56}, student: {model: resnet20}}
    r110-r32: {teacher: {model: resnet110}, student: {model: resnet32}}
  seed: [0, 1, 2]
"""
NAMES = [f"{m}.{p}.seed{s}" for m in ("kd", "crd") for p in ("r56-r20", "r110-r32") for s in range(3)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "x.yaml").write_text(TOP + MATRIX)
    return tmp_path


def load(folder, *sets, text=None, only=None, file="x.yaml"):
    if text is not None:
        (folder / file).write_text(text)
    return load_comparison(folder / file, sets, only)


def error(folder, *sets, **options):
    with pytest.raises(ConfigError) as caught:
        load(folder, *sets, **options)
    return str(caught.value).replace(str(folder) + os.sep, "")


def child(folder, text, *sets):
    return load(folder, *sets, text="base: x.yaml\n" + text, file="child.yaml")


def names(comparison):
    return list(comparison.experiments)


def test_each_cell_is_the_experiment_that_a_file_of_its_own_would_be(folder):
    found = load(folder)
    assert names(found) == NAMES
    cell = found.experiments["crd.r110-r32.seed2"]
    assert (cell.seed, cell.teacher.model, cell.student.model) == (2, "resnet110", "resnet32")
    (folder / "alone.yaml").write_text(
        TOP + "name: x\nobjectives: {ce: {}, crd: {}}\nseed: 2\nteacher: {model: resnet110}\n"
        "student: {model: resnet32}\n"
    )
    assert (
        load_experiment(folder / "alone.yaml") == cell == load_experiment(folder / "x.yaml", (), "crd.r110-r32.seed2")
    )
    assert found.matrix.cells["crd.r110-r32.seed2"] == {"method": "crd", "pair": "r110-r32", "seed": 2}
    assert found.matrix.axes == {"method": ["kd", "crd"], "pair": ["r56-r20", "r110-r32"], "seed": [0, 1, 2]}
    assert not found.matrix.baseline and not found.matrix.published


def test_values_of_a_list_are_of_the_key_of_that_name(folder):
    text = TOP + "objectives: {ce: {}, clmkd.class_guided: {weight: 1}}\nteacher: {model: resnet56}\n"
    text += "student: {model: resnet8}\nmatrix:\n  train.schedule.type: [cosine]\n  train.epochs: [300, 320]\n"
    text += "  train.optimizer.lr: [0.1, 1e-5]\n  objectives.clmkd.class_guided.weight: [0.5]\n"
    text += "  train.ema: [null, 0.9]\n"
    found = load(folder, text=text)
    assert names(found)[1] == "type-cosine.epochs300.lr0.1.weight0.5.ema0.9"
    assert names(found)[-2] == "type-cosine.epochs320.lr1e-05.weight0.5.ema-null"
    one = found.experiments[names(found)[-1]]
    assert (one.train.epochs, one.train.optimizer.lr, one.train.ema) == (320, 1e-5, 0.9)
    assert one.objectives["clmkd.class_guided"] == {"weight": 0.5}
    assert one.train.schedule.type == "cosine" and one.train.schedule.milestones == []  # a new type starts anew


def test_a_later_axis_wins_and_null_takes_an_objective_away(folder):
    text = TOP + "student: {model: resnet8}\nobjectives: {ce: {}, at: {}}\nteacher: {model: resnet56}\nmatrix:\n"
    text += "  method: {plain: {objectives: {at: null}}, both: {seed: 7, objectives: {at: {weight: 3}}}}\n"
    found = load(folder, text=text).experiments
    assert found["plain"].objectives == {"ce": {}} and found["both"].objectives["at"] == {"weight": 3}
    assert [one.seed for one in found.values()] == [0, 7]
    found = load(folder, text=text + "  seed: [3]\n").experiments
    assert [one.seed for one in found.values()] == [3, 3]


def test_exclude(folder):
    found = load(folder, text=TOP + MATRIX + "  exclude: [{method: crd, pair: r56-r20}, {method: kd, seed: [1, 2]}]\n")
    assert names(found) == [NAMES[0], NAMES[3], *NAMES[9:]]


def test_a_baseline_and_published_numbers(folder):
    text = TOP + MATRIX + "  baseline: {method: kd}\n  published:\n"
    text += "    - {method: kd, pair: r56-r20, top1: 70.66, recipe: 240 epochs, source: RepDistiller README}\n"
    text += "    - {method: crd, pair: r56-r20, top1: 71, std: 0.2, seeds: 5, recipe: r, source: s}\n"
    found = load(folder, text=text)
    assert found.matrix.baseline == {"method": "kd"}
    one, other = found.matrix.published
    assert (one.at, one.top1, one.recipe) == ({"method": "kd", "pair": "r56-r20"}, 70.66, "240 epochs")
    assert (other.top1, other.std, other.seeds) == (71.0, 0.2, 5)
    # With one pair the row is clear without it, and what is of no row any more is gone.
    less = load(folder, "matrix.pair=[r56-r20]", "matrix.method=[kd]")
    assert [number.top1 for number in less.matrix.published] == [70.66]
    assert load(folder, "matrix.published=[{method: kd, top1: 9, recipe: r, source: s}]", "matrix.pair=[r110-r32]")
    some = load(folder, only=["crd.*.seed0"])
    assert names(some) == [NAMES[6], NAMES[9]] == list(some.matrix.cells)
    assert some.matrix.baseline == {} and [number.top1 for number in some.matrix.published] == [71.0]


# -- bases and the command line ----------------------------------------------------------------------------------------


def test_axes_of_a_base_merge_and_lists_replace(folder):
    found = child(folder, "matrix: {method: {kd: {objectives: {ce: null, kd: {temperature: 2}}}}, seed: [5]}\n")
    assert names(found) == [f"{m}.{p}.seed5" for m in ("kd", "crd") for p in ("r56-r20", "r110-r32")]
    assert found.experiments["kd.r56-r20.seed5"].objectives == {"kd": {"weight": 0.9, "temperature": 2}}
    found = child(
        folder, "matrix: {method: {crd: null, ce: {objectives: {ce: {}}}}, pair: [r110-r32], train.ema: [0.9]}\n"
    )
    assert names(found) == [f"{m}.r110-r32.seed{s}.ema0.9" for m in ("kd", "ce") for s in range(3)]
    found = child(folder, "matrix: {pair: null, seed: [1]}\nstudent: {model: resnet8}\nteacher: {model: resnet14}\n")
    assert names(found) == ["kd.seed1", "crd.seed1"]


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["matrix.seed=[3]", "matrix.pair=[r56-r20]"], [f"{m}.r56-r20.seed3" for m in ("kd", "crd")]),
        (["matrix.method.crd=null", "matrix.seed=[0]"], ["kd.r56-r20.seed0", "kd.r110-r32.seed0"]),
        (["matrix.method={ce: {objectives: {ce: {}}}}", "matrix.seed=[0]"], ["ce.r56-r20.seed0", "ce.r110-r32.seed0"]),
        (["matrix.exclude=[{method: crd}]", "matrix.pair=[r110-r32]"], [f"kd.r110-r32.seed{s}" for s in range(3)]),
        (["matrix={seed: [8]}", "objectives={ce: {}}", "student={model: vgg8}"], ["seed8"]),
        (["matrix.pair=[r56-r20]", "matrix.seed=[0]", "matrix.train.ema=[.9]", "matrix.method=[kd]"],
         [NAMES[0] + ".ema0.9"]),
    ],
)  # fmt: skip
def test_sets_choose_cells(folder, sets, expected):
    assert names(load(folder, *sets)) == expected


def test_sets_change_values(folder):
    found = load(folder, "matrix.method.kd.objectives.kd.temperature=2", "matrix.pair.r56-r20.student={model: vgg8}")
    assert found.experiments[NAMES[0]].objectives["kd"] == {"weight": 0.9, "temperature": 2}
    assert {found.experiments[name].student.model for name in (NAMES[0], NAMES[6])} == {"vgg8"}
    assert found.experiments[NAMES[3]].student.model == "resnet32"
    found = load(folder, "train.batch=32", "matrix.method.crd.objectives={ce: {}}")
    assert {one.train.batch for one in found.experiments.values()} == {32}
    assert found.experiments[NAMES[6]].objectives == {"ce": {}}
    assert load(folder, "matrix=null", "objectives={ce: {}}", "student={model: vgg8}").matrix is None


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("  baseline: {metod: kd}", "x.yaml:16: matrix.baseline.metod: no axis 'metod' (did you mean 'method'?). Axes"),
        ("  baseline: {method: dk}", "matrix.baseline.method: no value \"dk\" (did you mean 'kd'?). Values: kd, crd"),
        ("  baseline: {seed: 0}", "matrix.baseline.seed: seeds are what is averaged over. Name a value of method"),
        ("  baseline: kd", 'matrix.baseline: wants a map, but "kd" stands there'),
        ("  exclude: [{methd: kd}]", "x.yaml:16: matrix.exclude.0.methd: no axis 'methd' (did you mean 'method'?)"),
        ("  exclude: [{method: [kd, crx]}]", "matrix.exclude.0.method: no value \"crx\" (did you mean 'crd'?)"),
        ("  exclude: {method: kd}", "matrix.exclude: wants a list"),
        ("  exclude: [{method: kd}, {method: crd}]", "exclude leaves no cell"),
        ("  exclude: [{method: kd}]\n  baseline: {method: kd}", "exclude leaves no cell of the baseline"),
        ("  seeds: [1]", "a list is of values of a key, and no cell has a key 'seeds' (did you mean 'seed'?)"),
        ("  epochs: [1]", "no cell has a key 'epochs' (did you mean 'train.epochs'?)"),
        ("  train.batch: [64, 32, 64]", "x.yaml:16: matrix.train.batch: has 64 twice. Keep one of them"),
        ("  storage: [a]", "no cell has a key 'storage'"),
        ("  basline: {method: kd}", "wants a map, but \"kd\" stands there (did you mean 'baseline'?)"),
        ("  exlude: [{method: kd}]", "(did you mean 'exclude'?)"),
        ("  train.epochs: 3", "matrix.train.epochs: is no axis, but 3"),
        ("  other: {}", "the axis 'other' has no values"),
        ("  other: {a b: {}}", '"a b" cannot be a name'),
        ("  other: {a: {storage: x}}", "x.yaml:16: matrix.other.a.storage: storage is not a cell's to change"),
        ("  other: {a: {matrix: {}}}", "matrix is not a cell's to change"),
        ("  other: {a: {objektives: {}}}", "unknown key 'objektives' (did you mean 'objectives'?)"),
        ("  other: {a: {seed: -1}}", "x.yaml:16: matrix.other.a.seed: -1 is out of range"),
        ("  train.batch: [64, -1]", "x.yaml:16: matrix.train.batch.1: -1 is out of range"),
        ("  train.epochs: [240, 9]", "x.yaml:6: matrix.cells.kd.r56-r20.seed0.epochs9.train.sched"),
        ("  train.batch.size: [1]", "matrix.train.batch.size: train.batch is 64, so it holds no 'size'"),
        ("  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: {bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb: {}}", "is no name of 1"),
        ("  o: {a.b: {}, a: {}}\n  p: {c: {}, b.c: {}}", "'kd.r56-r20.seed0.a.b.c' is the name of two cells"),
        ("variants: {a: {}}", "x.yaml:7: matrix: stands beside variants. Make an axis of the variants, or remove one"),
        ("search: {trials: 3}", "x.yaml:7: matrix: stands beside search"),
        ("  published: [{method: kd, pair: r56-r20, top1: 70}]", "matrix.published.0.recipe: is missing"),
        ("  published: [{method: kd, top1: 70, recipe: r, source: s}]", "pair: is missing: the row is not clear"),
        ("  published: [{method: kd, pair: r56-r20, top1: 0.7, recipe: r, source: s}]", "wants percent, but 0.7"),
        ("  published: [{method: kd, pair: r56, top1: 70, recipe: r, source: s}]", "(did you mean 'r56-r20'?)"),
        ("  published: [{method: kd, seed: 0, top1: 70, recipe: r, source: s}]", "which is over all seeds"),
        ("  published: [{method: kd, pair: r56-r20, top: 70, recipe: r, source: s}]", "'top' (did you mean 'top1'?)"),
        ("  published: [{method: kd, pair: r56-r20, top1: 70, recipe: 3, source: s}]", "wants text, but 3"),
        ("  published: [{method: kd, pair: r56-r20, top1: 70, seeds: 0, recipe: r, source: s}]", "a whole number"),
    ],
)  # fmt: skip
def test_what_is_refused(folder, more, words):
    assert words in error(folder, text=TOP + MATRIX + more + "\n")


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("matrix.method.dk.seed=1", "no value 'dk' (did you mean 'kd'?). Values: kd, crd"),
        ("matrix.method.kd.sed=1", "matrix.method.kd.sed: unknown key 'sed' (did you mean 'seed'?)"),
        ("matrix.metod.kd.seed=1", "no axis 'metod' (did you mean 'method'?). Axes: method, pair, seed"),
        ("matrix.method=[kd, cdr]", "no value \"cdr\" (did you mean 'crd'?) to select. Values: kd, crd"),
        ("matrix.method.kx=null", "there is no value 'kx' to take away"),
        ("matrix.pairs=null", "there is no axis 'pairs' to take away (did you mean 'pair'?)"),
        ("matrix.seed.0=3", "a list has no parts to set. Set the whole list: --set 'matrix.seed=[...]'"),
        ("matrix.seed=[0, x]", 'matrix.seed.1: wants a whole number, but "x" stands there'),
        ("matrix.method.kd.train.epochs=0", "matrix.method.kd.train.epochs: 0 is out of range"),
        ("matrix.baseline.method=x", 'matrix.baseline.method: no value "x"'),
        ("matrix=3", "matrix: wants a map, but 3 stands there"),
    ],
)
def test_a_wrong_set_names_itself(folder, sets, words):
    text = error(folder, sets)
    assert text.startswith(f"--set {sets}: ") and words in text


def test_a_selection_without_the_baseline_is_refused(folder):
    assert 'no value "kd"' in error(folder, "matrix.method=[crd]", text=TOP + MATRIX + "  baseline: {method: kd}\n")


def test_what_is_wrong_for_all_is_told_once_where_it_stands(folder):
    text = error(folder, text=TOP.replace("batch: 64", "batch: 0") + MATRIX)
    assert text.startswith("x.yaml:4: train.batch: 0 is out of range") and "\n" not in text
    text = error(folder, text=(TOP + MATRIX).replace("crd: {}}", "crd: {}}\n      train: {epoch: 3}"))
    assert text.startswith("x.yaml:12: matrix.method.crd.train.epoch: unknown key 'epoch'") and "\n" not in text
    text = error(folder, text=TOP + "matrix: {seed: [0, 1]}\n")
    assert text.startswith("x.yaml: names neither a teacher nor a student") and "\n" not in text


def test_an_unknown_variant_and_a_file_with_one_cell(folder):
    assert "no variant 'kd.r56-r20.sed0' (did you mean 'kd.r56-r20.seed0'?)" in error(folder, only=["kd.r56-r20.sed0"])
    assert "no variant 'x.*'" in error(folder, only=["x.*"])
    one = load_experiment(folder / "x.yaml", ["matrix.seed=[4]", "matrix.method=[crd]", "matrix.pair=[r56-r20]"])
    assert one.seed == 4


def test_places_are_known_after_the_file_was_read(folder):
    path = folder / "x.yaml"
    cell = "matrix.cells.crd.r56-r20.seed1."
    expected = {
        "objectives.crd.weight": ("matrix.method.crd.objectives.crd.weight", 11),
        "student.model": ("matrix.pair.r56-r20.student.model", 13),
        "teacher.train.batch": (cell + "teacher.train.batch", 4),
        "train.epochs": ("train.epochs", 3),
        "seed": ("matrix.seed.1", 15),
    }
    for key, (told, line) in expected.items():
        assert written_at(path, [], cell + key) == (f"{path}:{line}", told), key
        assert place_of(path, [], cell + key) == f"{path}:{line}"
    assert written_at(path, ["matrix.seed=[0, 1]"], cell + "seed") == ("--set matrix.seed=[0, 1]", "matrix.seed.1")
    changed = "matrix.method.crd.objectives.crd.weight=2"
    assert place_of(path, [changed], cell + "objectives.crd.weight") == f"--set {changed}"
    assert place_of(path, [], "train.batch") == f"{path}:4"


# -- the way back ------------------------------------------------------------------------------------------------------


def test_to_yaml_and_read_tree_are_read_back_whole(folder):
    text = TOP + MATRIX + "  train.optimizer: [{type: adamw, lr: 1}]\n"
    more = "  recipe: {a: {train: {optimizer: {type: adamw, lr: 1e-3}, schedule: {type: cosine}}},"
    more += " b: {data: {mix: {mixup: 1}}}}\n"
    more += "  exclude: [{method: crd, recipe: b}]\n  baseline: {method: kd}\n"
    more += "  published: [{method: kd, pair: r56-r20, recipe: a, top1: 70, source: s}]\nstorage: here\n"
    assert "wants plain values" in error(folder, text=text)
    # An axis may be called as a key of a published number: then the two cannot be told apart.
    assert "cannot be the name of an axis" in error(folder, text=TOP + MATRIX + more)
    more = (
        more.replace("  recipe: {a", "  how: {a")
        .replace("recipe: b", "how: b")
        .replace("recipe: a", "recipe: r, how: a")
    )
    comparison = load(folder, text=TOP + MATRIX + more)
    assert len(comparison.experiments) == 18 and comparison.matrix.published
    written = to_yaml(comparison)
    again = load(folder, text=written, file="again.yaml")
    assert again == comparison and to_yaml(again) == written
    assert written.count("source: cifar100") == 1  # what all cells share stands there once
    assert comparison_from_dict(comparison.plain()) == comparison
    assert comparison_from_dict(read_tree(folder / "x.yaml")) == comparison
    some = comparison.only(["kd.*.seed0.a"])
    assert load(folder, text=to_yaml(some), file="some.yaml") == some
    path = folder / "again.yaml"
    line = next(n for n, row in enumerate(written.splitlines(), 1) if row.startswith("  kd.r110-r32.seed1.a:"))
    assert int(place_of(path, [], "matrix.cells.kd.r110-r32.seed1.a.student.model").rpartition(":")[2]) > line


def test_one_matrix_from_a_dict(folder):
    values = {
        "data": {"source": "digits"},
        "student": {"model": "resnet8"},
        "train": {"epochs": 1, "batch": 32, "optimizer": {"lr": 0.1}},
        "matrix": {"method": {"ce": {"objectives": {"ce": {}}}}, "seed": [0, 1]},
    }
    assert list(comparison_from_dict(values).experiments) == ["ce.seed0", "ce.seed1"]
    with pytest.raises(ConfigError, match="trial: has 2 variants"):
        experiment_from_dict(values, where="trial")
    assert experiment_from_dict(values, sets=["matrix.seed=[3]"]).seed == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("{method: kd, pair: r56-r20, seed: 0}", "{method: kd}"), "wants a value of method"),
        (("  cells:", "  other: {}\n  cells:"), "the axis 'other' stands beside cells"),
        (("    kd.r56-r20.seed0:", "    kx:"), "does not name just the variants"),
    ],
)
def test_a_written_out_matrix_that_was_changed(folder, change, words):
    written = to_yaml(load(folder))
    assert change[0] in written
    assert words in error(folder, text=written.replace(*change), file="again.yaml")
    assert "nothing can be laid over a matrix" in error(folder, "matrix.seed=[0]", text=written, file="again.yaml")
