"""What can be wrong with a search ends in one line, before anything runs: by key and value, with the file and line."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest

from kdray.errors import ConfigError
from kdray.experiment import load_comparison
from kdray.pipeline.plan import make_plan
from tests.pipeline.refused import refused
from tests.tiny import Lab, command

pytestmark = pytest.mark.usefixtures("nothing_runs")

PHASES = [{"from_epoch": 1, "set": {"objectives.kd.weight": 0.5}}]
WEIGHT = {"objectives.kd.weight": "uniform(0.1, 2)"}
LR = {"train.optimizer.lr": "loguniform(0.01, 1)"}
OWN_TEACHER = {"teacher": {"train": {"epochs": 1, "batch": 32, "optimizer": {"lr": 0.1}}}}
NO_CLASSIFIER = {"student": {"classifier": False}, "objectives": {"ce": None, "kd": None, "rkd": {}}}


def searched(search: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A change of TINY into an experiment with a search."""
    return {"cluster": {"workers": 1}, "search": {"space": WEIGHT, "trials": 2, **search}} | changes


class Case(NamedTuple):
    changes: dict[str, Any]
    said: str


CASES = {
    "without Ray": Case(
        searched({}, cluster={"workers": 0}),
        "search: a search runs on Ray, and workers: 0 is one process without it. Set cluster.workers to 1",
    ),
    "a budget beyond the training": Case(
        searched({"at": {"epochs": 4}}),
        "search.at.epochs: 4 epochs are more than the 1 that a trial trains. Lower it, or raise train.epochs",
    ),
    "pbt and balance": Case(
        searched({"scheduler": "pbt"}, balance={"share": 0.5}),
        "balance: pbt finds what changes between epochs, and balance says it. Remove one",
    ),
    "pbt and phases": Case(
        searched({"scheduler": "pbt"}, phases=PHASES, train={"epochs": 2}),
        "phases: pbt finds what changes between epochs, and phases says it. Remove one",
    ),
    "pbt and a searcher": Case(
        searched({"scheduler": "pbt", "searcher": "cma_es"}),
        "search.searcher: pbt draws its first points at random, and cma_es would not be asked",
    ),
    "pbt of several workers": Case(
        searched({"scheduler": "pbt"}, cluster={"workers": 2, "cpus_per_worker": 0.5}),
        "search.scheduler: pbt makes trials wait at the end of an epoch, which those of several workers do not",
    ),
    "a weight that balance sets": Case(
        searched({}, balance={"share": 0.5}),
        "search.space.objectives.kd.weight: balance sets this weight, whatever a search would say",
    ),
    "a proxy of no such key": Case(
        searched({"transfer": {"set": {"student.params.widht": 0.5}}}), "'widht' (did you mean 'width'?)"
    ),
    "a proxy that is no experiment": Case(
        searched({"transfer": {"set": {"train.epoch": 2}}}),
        "search.transfer.set: train.epoch: unknown key 'epoch' (did you mean 'epochs'?)",
    ),
    "a proxy without a whole batch": Case(
        searched({"transfer": {"set": {"train.batch": 4096}}}),
        "search.transfer.set: train.batch: the training images do not fill one batch of 4096",
    ),
    "the teacher changes with the student": Case(
        searched({"space": LR}),
        "search.space: it changes the teacher too, and all trials learn from one. "
        "Pin it: give teacher.weights, or teacher.train and teacher.data of its own",
    ),
    "the teacher is searched": Case(
        searched({"space": {"teacher.params.width": [0.25, 0.5]}}),
        "search.space.teacher.params.width: value 0.5: it changes the teacher too",
    ),
    "the data of both is searched": Case(
        searched({"space": {"data.limit": [64, 48]}}, **OWN_TEACHER),
        "search.space.data.limit: value 48: it changes the teacher too",
    ),
    "an end of a range": Case(
        searched({"space": {"objectives.kd.weight": "uniform(-1, 1)"}}),
        "search.space.objectives.kd.weight: value -1.0: -1.0 should be greater than or equal to 0",
    ),
    "a parameter that is none": Case(
        searched({"space": {"objectives.kd.temprature": [2, 4]}}),
        "search.space.objectives.kd.temprature: value 2: kd has no such parameter (did you mean 'temperature'?)",
    ),
    "a batch that the data does not fill": Case(
        searched({"space": {"train.batch": [32, 4096]}}, **OWN_TEACHER),
        "search.space.train.batch: value 4096: the training images do not fill one batch of 4096",
    ),
    "a network that is none": Case(
        searched({"space": {"student.model": ["resnet8", "resnet9"]}}),
        "search.space.student.model: value \"resnet9\": unknown model 'resnet9'",
    ),
    "a method that does not fit": Case(
        searched({"space": {"method": {"kd": {}, "alone": {"objectives.kd": None, "objectives.nothing": {}}}}}),
        "search.space.method: value \"alone\": objectives.nothing: unknown method 'nothing'",
    ),
    "a transform that is none": Case(
        searched({"space": {"g": {"a": {}, "b": {"data.augment": "flip"}}}}, **OWN_TEACHER),
        'search.space.g: value "b": data.augment: wants a list of transforms, but "flip" stands there',
    ),
    "nothing to search": Case(
        searched({"space": "default"}, objectives={"kd": None}),
        "search.space: there is nothing to search: no objective has a space. Write space: {train.optimizer.lr:",
    ),
    "a grid of the default space": Case(
        searched({"space": "default", "searcher": "grid"}), "a grid cannot count the values of "
    ),
    "a teacher that is not trained": Case(
        searched({"space": LR}, student=None, objectives=None, teacher={"model": "own:net", "params": None}),
        "teacher.model (own:net)",
    ),
    "a loss that nobody has": Case(
        searched({"metric": "loss/kdd"}),
        "search.metric: no epoch will have loss/kdd (did you mean 'kd'?). Choose one of loss/",
    ),
    "accuracy without a classifier": Case(
        searched({"space": {"objectives.rkd.angle": "uniform(5, 100)"}}, **NO_CLASSIFIER),
        "search.metric: val/top1 needs a classifier, and what is searched has none",
    ),
    "hyperband and a searcher that learns": Case(
        searched({"scheduler": "hyperband", "searcher": "gp"}),
        "search.searcher: hyperband fills its brackets before any trial ends, and gp would learn nothing",
    ),
    "hyperband and so many at a time": Case(
        searched({"scheduler": "hyperband", "concurrent": 2}),
        "search.concurrent: hyperband has all trials of a bracket wait for each other, and they run as there is room",
    ),
    "validation that a trial does not have": Case(
        searched({"space": {"data.validation": [0.0, 0.1]}}, **OWN_TEACHER),
        "data.validation leaves none. Raise data.validation. Or: Search by loss/total: test takes part in no choice "
        "Tried: data.validation=0.0",
    ),
    "keys in a tracking URI": Case(
        searched({"mlflow": "http://me:secret@localhost:5000"}), "search.mlflow: keys stand in the URI"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_written(lab: Lab, name: str) -> None:
    said = refused(lab, CASES[name].changes, "--dry-run")
    assert CASES[name].said in said
    assert re.match(r"\S*tiny\.yaml:\d+: ", said), said
    assert "secret" not in said


def test_where_mlflow_is_to_be_sent_is_tried_before_a_run(lab: Lab) -> None:
    comparison = load_comparison(lab.write(searched({"mlflow": "runs"})))
    with pytest.raises(ConfigError, match="'runs' is no tracking URI") as error:
        make_plan(comparison)
    assert error.value.where == "search.mlflow"
    make_plan(comparison, dry=True)  # a laptop may not reach the cluster's


def test_a_set_is_named_in_the_place_of_the_file(lab: Lab) -> None:
    path = lab.write(searched({}))
    done = lab.run("--dry-run", "--set", "search.at.epochs=7", changes=searched({}))
    assert "search.at.epochs" in done.error() and "--set" in done.error() and str(path.name) not in done.error()


def test_a_loss_that_only_some_trials_have(lab: Lab) -> None:
    path = lab.write(searched({"metric": "loss/kd", "space": {"m": {"kd": {}, "none": {}}}}))
    assert command(path, "--dry-run").code == 0
    path.write_text(path.read_text().replace("none: {}", "none: {objectives.kd: null}"))
    said = command(path, "--dry-run").error(2)
    assert 'search.space.m: value "none": search.metric: no epoch will have loss/kd. Choose one of loss/ce, ' in said


GOOD = {
    "weights": searched({}),
    "the default space": searched({"space": "default"}),
    "a teacher of its own": searched({"space": LR}, **OWN_TEACHER),
    "a teacher alone": searched({"space": LR}, student=None, objectives=None),
    "a proxy": searched({"transfer": {"set": {"student.params.width": 0.25}, "check": 2}}),
    "methods": searched(
        {
            "space": {
                "method": {
                    "kd": WEIGHT,
                    "rkd": {"objectives.kd": None, "objectives.rkd": {}, "objectives.rkd.angle": "uniform(5, 100)"},
                }
            }
        }
    ),
    "a population": searched({"scheduler": "pbt", "space": {**WEIGHT, **LR}}, **OWN_TEACHER),
    "a loss": searched({"metric": "loss/kd"}),
    "a loss that begins late": searched(
        {"metric": "loss/kd"}, objectives={"kd": {"schedule": {"type": "taper", "epochs": 9}}}, train={"epochs": 10}
    ),
    "brackets": searched({"scheduler": "hyperband"}),
    "brackets and a seed": searched({"scheduler": "hyperband", "searcher": {"seed": 3}}),
    "a budget": searched({"at": {"epochs": 1}, "scheduler": "asha"}),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_can_be_searched_is_planned(lab: Lab, name: str) -> None:
    done = lab.run("--dry-run", changes=GOOD[name])
    assert done.code == 0, done.err
    assert lab.artifacts() == []
