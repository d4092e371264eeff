"""`search:` of a file: short forms, defaults, refusals, and what a digest sees of it."""

import pytest

from kdray.errors import ConfigError
from kdray.experiment import Search, comparison_from_dict, digest_of, experiment_from_dict, load_experiment, to_yaml

BASE = {
    "data": {"source": "digits"},
    "student": {"model": "m"},
    "teacher": {"model": "t", "weights": "w"},
    "objectives": {"ce": {}, "kd": {}},
    "train": {"epochs": 5, "batch": 8, "optimizer": {"lr": 0.1}},
}
LR = {"train.optimizer.lr": "loguniform(0.01, 1)"}
STEPS = {"objectives.kd.weight": "uniform(0, 1, 0.25)", "objectives.kd.temperature": [2, 4]}
GROUP = {"g": {"a": {}, "b": {"train.optimizer.lr": "uniform(0.1, 1)"}}}


def search(plain=None, **changes):
    return experiment_from_dict(BASE | changes | {"search": plain or {}}).search


def test_defaults():
    s = search()
    assert s == Search()
    assert (s.space, s.own_space, s.metric, s.mode, s.trials) == ("default", None, "val/top1", "max", None)
    assert (s.searcher.type, s.searcher.startup, s.searcher.multivariate) == ("tpe", 8, True)
    assert s.scheduler.type == "none"
    assert experiment_from_dict(BASE).search is None
    assert experiment_from_dict(BASE | {"search": None}).search is None


def test_short_forms():
    s = search({"searcher": "random", "scheduler": "asha", "space": LR})
    assert s == search({"searcher": {"type": "random"}, "scheduler": {"type": "asha"}, "space": LR})
    assert s.own_space.names() == list(LR)


@pytest.mark.parametrize(
    "metric, mode",
    [("val/top5", "max"), ("images_per_s", "max"), ("loss/kd", "min"), ("val/nll", "min"), ("seconds", "min")],
)
def test_the_mode_is_the_metrics_own(metric, mode):
    assert search({"metric": metric}).mode == mode
    assert search({"metric": metric}) == search({"metric": metric, "mode": mode})
    other = {"max": "min", "min": "max"}[mode]
    assert search({"metric": metric, "mode": other}).mode == other


def test_how_many_trials():
    space = search({"space": STEPS}).own_space
    assert search().wanted(space) == 16
    assert search({"trials": 3}).wanted(space) == 3
    assert search({"searcher": "grid", "space": STEPS}).wanted(space) == 10
    assert search({"searcher": "grid", "space": STEPS, "trials": 4}).wanted(space) == 4
    assert search({"searcher": "grid", "space": STEPS, "trials": 40}).wanted(space) == 10


@pytest.mark.parametrize(
    "plain, said",
    [
        ({"trails": 1}, r"search\.trails: unknown key 'trails' \(did you mean 'trials'\?\)"),
        ({"trials": 0}, r"search\.trials: 0 is out of range"),
        ({"searcher": "tpee"}, r"search\.searcher\.type: \"tpee\" is not a choice \(did you mean 'tpe'\?\)"),
        ({"searcher": {"type": "grid", "startup": 4}}, r"search\.searcher\.startup: startup 4 belongs to type tpe"),
        ({"searcher": {"type": "gp", "multivariate": False}}, r"multivariate False belongs to type tpe"),
        ({"scheduler": "ahsa"}, r"search\.scheduler\.type: .*did you mean 'asha'"),
        ({"scheduler": {"type": "asha", "quantile": 0.1}}, r"quantile 0\.1 belongs to type pbt"),
        ({"scheduler": {"type": "pbt", "grace_epochs": 2}}, r"grace_epochs 2 belongs to type asha or median"),
        ({"scheduler": {"type": "pbt", "quantile": 0.6}}, r"0\.6 is out of range"),
        ({"scheduler": {"type": "asha", "reduction": 1}}, r"1 is out of range"),
        ({"metric": "test/top1"}, r"search\.metric: test/top1 would choose by the test set\. Search by val/top1"),
        ({"metric": "val_top1"}, r"search\.metric: 'val_top1' is not a choice \(did you mean 'val/top1'\?\)"),
        ({"mode": "most"}, r"search\.mode"),
        ({"at": {}}, r"search\.at: names no budget"),
        ({"at": {"epochs": 1, "minutes": 1}}, r"search\.at: names two budgets"),
        ({"space": "defualt"}, r"search\.space: 'defualt' is no space"),
        ({"space": {"train.x": "uniform(1, 0)"}}, r"search\.space\.train\.x: uniform\(1, 0\): 1 is not below 0"),
        ({"space": {"m": {"a": {"tain.x": 1}}}}, r"search\.space\.m\.a\.tain\.x: 'tain'"),
        ({"transfer": {"set": {}}}, r"search\.transfer\.set: wants a map of changes"),
        ({"transfer": {"set": {"stduent.model": 1}}}, r"'stduent\.model' is no path .*'student'.* a path begins with"),
        ({"transfer": {"set": {"train.x": object()}}}, r"search\.transfer\.set.*: a object cannot stand"),
        ({"transfer": {"set": LR}, "space": LR}, r"search\.space\.train\.optimizer\.lr: is searched, and set by"),
        ({"mlflow": "http://user:secret@host"}, r"search\.mlflow: keys stand in the URI"),
    ],
)
def test_what_is_refused(plain, said):
    with pytest.raises(ConfigError, match=said) as error:
        search(plain)
    assert error.value.fix


@pytest.mark.parametrize(
    "plain, said",
    [
        ({"searcher": "grid", "space": LR}, r"space\.train\.optimizer\.lr: a grid cannot count .* loguniform"),
        ({"searcher": "grid", "space": {"seed": "int(0, 10000)"}}, r"a grid of this space has 10001 points"),
        ({"searcher": "cma_es", "space": GROUP}, r"search\.searcher: cma_es searches numbers alone, and g is a group"),
        ({"searcher": "cma_es", "space": STEPS}, r"kd\.temperature is choice\(2, 4\)\. Write it as int"),
        ({"searcher": "gp", "space": GROUP}, r"gp searches what all trials have"),
        ({"scheduler": "pbt", "space": GROUP}, r"search\.scheduler: pbt changes parameters within .* g is a group"),
        ({"scheduler": "pbt", "space": {"train.batch": [8, 16]}}, r"train\.batch holds for a whole one"),
    ],
)
def test_spaces_that_a_searcher_or_scheduler_cannot_take(plain, said):
    with pytest.raises(ConfigError, match=said):
        search(plain)


def test_spaces_that_they_can_take():
    search({"searcher": "gp", "space": {"g": {"a": {"train.batch": 4}, "b": {}}}})
    search({"scheduler": "pbt", "space": STEPS | LR})
    search({"searcher": "cma_es", "space": LR})
    search({"searcher": "grid", "space": STEPS | {"g": {"a": {}, "b": {"train.batch": [4, 8]}}}})


def test_the_metric_must_be_measured():
    with pytest.raises(ConfigError, match=r"search\.metric: val/top1 needs validation images, and there are none"):
        search(data={"source": "digits", "validation": 0})
    assert search({"metric": "loss/total"}, data={"source": "digits", "validation": 0}).mode == "min"
    train = BASE["train"] | {"eval_every": 0}
    with pytest.raises(ConfigError, match=r"search\.scheduler: asha compares val/top1 of every epoch"):
        search({"scheduler": "asha"}, train=train)
    assert search({}, train=train).metric == "val/top1"


def test_a_search_changes_no_digest_of_the_experiment_but_has_its_own():
    plain = experiment_from_dict(BASE)
    searched = experiment_from_dict(BASE | {"search": {"space": LR}})
    assert digest_of(searched) == digest_of(plain)
    assert digest_of(searched, results_only=False) != digest_of(plain, results_only=False)
    base = digest_of(search({"space": STEPS}))
    written = {"objectives.kd.temperature": "choice(2, 4)", "objectives": {"kd": {"weight": "uniform(0, 1.0, 0.25)"}}}
    assert digest_of(search({"space": written})) == base
    operational = {"trials": 3, "concurrent": 2, "max_hours": 1, "mlflow": "file:///x"}
    assert digest_of(search({"space": STEPS} | operational)) == base
    others = [
        {"space": LR},
        {"space": STEPS, "searcher": "random"},
        {"space": STEPS, "searcher": {"seed": 1}},
        {"space": STEPS, "scheduler": "asha"},
        {"space": STEPS, "metric": "val/nll"},
        {"space": STEPS, "at": {"epochs": 2}},
        {"space": STEPS, "transfer": {"set": {"train.epochs": 2}}},
    ]
    assert len({base, *(digest_of(search(other)) for other in others)}) == len(others) + 1


FILE = """
data: {source: digits}
student: {model: m}
objectives: {ce: {}}
train: {epochs: 5, batch: 8, optimizer: {lr: 0.1}}
search:
  scheduler: {type: asha, grace_epochs: 2}
  space:
    objectives.ce.weight: uniform(0.5, 1)
    recipe:
      short: {train.epochs: 2, train.optimizer.lr: loguniform(0.1, 1), train.batch: choice(4, 8)}
      long: {}
"""


def test_files_bases_and_sets(tmp_path):
    (tmp_path / "base.yaml").write_text(FILE)
    path = tmp_path / "e.yaml"
    path.write_text("base: base.yaml\nsearch: {space: {train.clip_norm: [1, 2]}}\n")
    e = load_experiment(path, ["search.trials=64", "search.scheduler.reduction=4"])
    assert (e.search.trials, e.search.scheduler.reduction, e.search.scheduler.grace_epochs) == (64, 4, 2)
    lr, batch = "train.optimizer.lr", "train.batch"
    assert e.search.own_space.names() == ["objectives.ce.weight", "train.clip_norm", "recipe", lr, batch]
    sets = ["search.space.objectives.ce.weight=uniform(0, 2)", "search.space.train.clip_norm=null"]
    with pytest.raises(ConfigError, match=r"--set search\.space\.train\.clip_norm=null: .*null is no distribution"):
        load_experiment(path, sets)
    sets = [sets[0], 'search.space."objectives.ce.label_smoothing"=uniform(0, 0.2)', "search.space.seed=[0, 1]"]
    space = load_experiment(path, sets).search.own_space
    assert space.texts()["objectives.ce.weight"] == "uniform(0, 2)"
    assert {"objectives.ce.label_smoothing", "seed"} <= set(space.names())
    path.write_text(FILE.replace("uniform(0.5, 1)", "uniform(1, 1)"))
    with pytest.raises(
        ConfigError, match=r"e\.yaml:9: search\.space\.objectives\.ce\.weight: uniform\(1, 1\): 1 is not"
    ):
        load_experiment(path)
    path.write_text(FILE)
    text = to_yaml(load_experiment(path))
    (tmp_path / "again.yaml").write_text(text)
    assert load_experiment(tmp_path / "again.yaml").search == load_experiment(path).search


def test_no_search_in_a_file_with_variants(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text(FILE + "variants: {a: {}, b: {seed: 1}}\n")
    with pytest.raises(ConfigError, match=r"e\.yaml:6: search: a file with variants cannot have a search\. .* a group"):
        load_experiment(path, variant="a")
    with pytest.raises(ConfigError, match=r"variants\.a\.search: a file with variants cannot have a search"):
        comparison_from_dict(BASE | {"variants": {"a": {"search": {}}}})
    whole = comparison_from_dict(BASE | {"search": None, "variants": {"a": {}, "b": {"seed": 1}}})
    assert "search" not in whole.plain()["variants"]["a"]
    assert comparison_from_dict(whole.plain()) == whole
