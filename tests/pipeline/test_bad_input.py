"""Everything that can be wrong with a file's keys ends in one line, before anything runs and with nothing written.

A line names the file (and line) or the --set, the key's path, the value, and the way out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from tests.pipeline.refused import refused
from tests.tiny import Lab

pytestmark = pytest.mark.usefixtures("nothing_runs")

OWN = """
import torch
from kdray.objectives import LOSS, Needs, Objective, ObjectiveConfig


class TwoViews(Objective):
    config, provenance, family, source = ObjectiveConfig, "paper", "test", "a test"

    @classmethod
    def needs(cls, options):
        return Needs(teacher=False, min_views=2)

    def forward(self, targets, student, teacher, student_head, teacher_head, step):
        return {LOSS: student.logits.mean()}


class TwoViewsOfFeatures(TwoViews):
    def forward(self, targets, student, teacher, student_head, teacher_head, step):
        return {LOSS: student.pooled.mean()}


def ten_thousand(num_classes=10):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10000))
"""


class Case(NamedTuple):
    changes: dict[str, Any]
    said: list[str]


CASES = {
    "unknown key": Case({"train": {"epoch": 3}}, ["train.epoch: unknown key 'epoch' (did you mean 'epochs'?)"]),
    "wrong type": Case({"train": {"epochs": "many"}}, ["train.epochs: wants a whole number", '"many"']),
    "unknown method": Case(
        {"objectives": {"kdd": {}}},
        ["objectives.kdd: unknown method 'kdd' (did you mean 'kd'?)", "`--list methods` names"],
    ),
    "unknown parameter": Case(
        {"objectives": {"kd": {"temprature": 4}}}, ["objectives.kd.temprature", "did you mean 'temperature'?"]
    ),
    "parameter out of range": Case({"objectives": {"kd": {"temperature": -1}}}, ["objectives.kd.temperature: -1"]),
    "unknown method of the teacher": Case(
        {"teacher": {"objectives": {"cee": {}}}}, ["teacher.objectives.cee", "(did you mean 'ce'?)"]
    ),
    "a teacher that would need one": Case(
        {"teacher": {"objectives": {"kd": {}}}}, ["teacher.objectives.kd: a teacher has no teacher itself"]
    ),
    "no teacher": Case(
        {"teacher": None}, ["objectives.kd: this objective needs a teacher. Add teacher: {model: NAME, weights: URI}"]
    ),
    "no such module of a user": Case(
        {"objectives": {"x": {"type": "nowhere:X"}}}, ["objectives.x.type: 'nowhere' cannot be imported"]
    ),
    "views too few": Case(
        {"objectives": {"two": {"type": "own:TwoViews"}}},
        ["objectives.two: it needs 2 views of every image, and data.views is 1. Set data.views to 2"],
    ),
    "views of the teacher too few": Case(
        {"teacher": {"objectives": {"two": {"type": "own:TwoViews"}}}},
        ["teacher.objectives.two: it needs 2 views of every image, and data.views is 1. Set teacher.data.views to 2"],
    ),
    "cross-entropy without a classifier": Case(
        {"teacher": {"classifier": False}},
        ["teacher.objectives.ce: resnet8 has no classifier. Write classifier: true, or use objectives that read feat"],
    ),
    "logits of a teacher without a classifier": Case(
        {"teacher": {"classifier": False, "objectives": {"ce": None, "two": {"type": "own:TwoViewsOfFeatures"}}}}
        | {"data": {"views": 2}},
        ["objectives.kd: it needs logits, and resnet8 has no classifier. Give the teacher a classifier, or use obj"],
    ),
    "a student alone without a classifier": Case(
        {"student": {"classifier": False, "alone": True}},
        ["student.alone: alone means cross-entropy, which needs a classifier. Write alone: false, or classifier: true"],
    ),
    "a floor without a classifier": Case(
        {"teacher": {"classifier": False, "min_accuracy": 0.5}},
        ["teacher.min_accuracy: a floor of 0.5 means nothing without a classifier", "Remove it"],
    ),
    "an unknown key of the linear probe": Case(
        {"evaluate": {"linear_probe": {"epoch": 3}}}, ["evaluate.linear_probe.epoch", "(did you mean 'epochs'?)"]
    ),
    "a linear probe that is none": Case({"evaluate": {"linear_probe": 3}}, ["evaluate.linear_probe"]),
    "unknown transform of the teacher": Case(
        {"teacher": {"data": {"augment": ["flipp"]}}}, ["teacher.data.augment.0", "(did you mean 'flip'?)"]
    ),
    "data that a teacher cannot have alone": Case(
        {"teacher": {"data": {"source": "cifar10"}}},
        ["teacher.data.source: unknown key 'source'. Write it as data.source"],
    ),
    "unknown model": Case({"student": {"model": "resnet9"}}, ["student.model: unknown model 'resnet9'", "resnet8'?"]),
    "unknown model of the teacher": Case(
        {"teacher": {"model": "torchvision/resnet19", "params": None}},
        ["teacher.model (torchvision/resnet19): torchvision has no classifier 'resnet19' (did you mean 'resnet1"],
    ),
    "unknown parameter of a model": Case(
        {"student": {"params": {"widht": 2}}}, ["student.params (resnet8)", "'widht' (did you mean 'width'?)"]
    ),
    "unknown layer": Case(
        {"student": {"model": "torchvision/resnet18", "params": None, "stages": ["layer1", "layer9"]}},
        ["student.stages (torchvision/resnet18): no module 'layer9' (did you mean 'layer", "its parts are: conv1"],
    ),
    "no such callable": Case(
        {"student": {"model": "own:Nets", "params": None}}, ["student.model (own:Nets): own has no 'Nets'"]
    ),
    "no such package": Case(
        {"student": {"model": "no.such.package:net", "params": None}},
        ["student.model (no.such.package:net): no module 'no'"],
    ),
    "a model of other classes": Case(
        {"student": {"model": "own:ten_thousand", "params": None}},
        ["student.model (own:ten_thousand): it gives [10000] per image, the data has 10 classes"],
    ),
    "unknown transform": Case(
        {"data": {"augment": ["flipp"]}}, ["data.augment.0: unknown transform 'flipp' (did you mean 'flip'?)"]
    ),
    "parameter of a transform": Case(
        {"data": {"augment": [{"pad_crop": {"padding": -4}}]}}, ["data.augment.0.pad_crop.padding: -4"]
    ),
    "a random evaluation": Case(
        {"data": {"eval_transform": ["flip"]}}, ["data.eval_transform.0: flip is random, and evaluation is not"]
    ),
    "images of another size in training": Case(
        {
            "data": {"augment": [{"random_resized_crop": {"size": 48}}]},
            "student": {"model": "own:flat", "params": None},
        },
        ["student.model (own:flat): it cannot run on 3x48x48 images"],
    ),
    "classes": Case({"data": {"classes": 7}}, ["data.source", "the data has 10 classes, but 7 are expected"]),
    "a batch larger than the data": Case(
        {"train": {"batch": 4096}},
        ["train.batch: 64 training images do not fill one batch of 4096. Lower it"],
    ),
    "a batch that does not divide": Case(
        {"train": {"accumulate": 3}}, ["train.batch: batch 32 cannot be split", "Give a multiple of 3: 30 or 33"]
    ),
    "precision": Case({"train": {"precision": "fp16"}}, ["train.precision: fp16 cannot train on a CPU"]),
    "precision of the evaluation": Case({"evaluate": {"precision": "fp16"}}, ["evaluate.precision: fp16"]),
    "no weights": Case(
        {"teacher": {"weights": "nowhere/t.safetensors"}},
        ["teacher.weights /", "nowhere/t.safetensors: does not exist. Check the path"],
    ),
    "published weights that are not": Case(
        {"teacher": {"model": "torchvision/resnet18", "params": None, "weights": "IMAGENET1K_V9"}},
        ["teacher.weights: 'IMAGENET1K_V9' is neither a file nor weights of torchvision/resnet18", "IMAGENET1K_V1'?"],
    ),
    "published weights of other classes": Case(
        {"teacher": {"model": "torchvision/resnet18", "params": None, "weights": "DEFAULT"}},
        ["teacher.weights: 'DEFAULT' of torchvision/resnet18 has 1000 classes, the data 10"],
    ),
    "unknown storage": Case({"storage": "ftp://host/runs"}, ["storage ftp://host/runs: storage 'ftp' is not known"]),
    "a file in the storage's place": Case(
        {"storage": "own.py"}, ["storage /", "own.py/artifacts: a file stands where a folder should be"]
    ),
    "no data": Case(
        {"data": {"source": None, "root": None, "train": "nowhere"}}, ["data.train /", "nowhere: does not exist"]
    ),
    "no archive": Case(
        {"data": {"source": "cifar100", "root": "own.py"}}, ["data.source /", "own.py", "a file stands where a folder"]
    ),
    "too few CPUs": Case(
        {"cluster": {"workers": 1, "cpus_per_worker": 4096.0}},
        ["cluster: 1 workers x 4096 CPU do not fit on", "Lower cluster.workers or cluster.cpus_per_worker"],
    ),
    "more workers than CPUs": Case(
        {"cluster": {"workers": 1024}, "train": {"batch": 1024}, "data": {"limit": None}},
        ["cluster.workers: 1024 workers on ", "cluster.cpus_per_worker: 0.5"],
    ),
    "no CPU left for the data": Case(
        {"cluster": {"workers": 1, "data_cpus": 4096.0}, "data": {"mode": "stream"}},
        ["+ 4096 CPU for data do not fit", "or set data.mode: resident"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_written(lab: Lab, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.folder / "own.py").write_text(OWN + FLAT)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.delitem(__import__("sys").modules, "own", raising=False)
    # A run would start Ray beside its checks; a dry run makes the same ones.
    arguments = ["--dry-run"] if CASES[name].changes.get("cluster") else []
    said = refused(lab, CASES[name].changes, *arguments)
    for words in CASES[name].said:
        assert words in said, said


FLAT = """

def flat(num_classes=10):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, num_classes))
"""


def test_the_line_is_named_where_the_key_stands(lab: Lab) -> None:
    path = lab.write({"objectives": {"kd": {"temperature": -1}}})
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "temperature: -1" in text)
    assert refused(lab, {"objectives": {"kd": {"temperature": -1}}}).startswith(f"{path}:{line}: objectives.kd.temp")
    said = refused(lab, {}, "--set", "objectives.kd.temperature=-2")
    assert said.startswith("--set objectives.kd.temperature=-2: objectives.kd.temperature: -2")
    said = refused(lab, {}, "--set", "student.model=resnet9")
    assert said.startswith("--set student.model=resnet9: student.model: unknown model")
