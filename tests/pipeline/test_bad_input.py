"""Everything that can be wrong with an experiment ends in one line, before anything runs and with nothing written.

A line names the file (and line) or the --set, the key's path, the value, and the way out.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from kdray.data.digits import digit_samples
from kdray.data.writer import Sample, write_shards
from kdray.experiment import ModelSpec
from kdray.models.zoo import build
from tests.tiny import Done, Lab, tree_of

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


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdray.train.worker.StageWorker.run", lambda self: pytest.fail("a stage was started"))


def refused(lab: Lab, changes: dict[str, Any], *arguments: str) -> str:
    """The line that TINY with `changes` ends in; nothing is left by it."""
    path = lab.write(changes)
    before = tree_of(lab.folder)
    done = lab.run(*arguments, changes=changes)
    said = done.error(2)
    assert tree_of(lab.folder) == before
    assert path.name in said or "--set" in said, said
    return said


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
        ["+ 4096 CPU for Ray Data do not fit", "or set data.mode: resident"],
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


# -- weights -----------------------------------------------------------------------------------------------------------


def weights_of(model: str, classes: int = 10, width: float = 0.25) -> dict[str, torch.Tensor]:
    return build(ModelSpec(model=model, params={"width": width}), classes, 32).backbone.state_dict()


def test_weights_that_are_none(lab: Lab) -> None:
    (lab.folder / "t.safetensors").write_bytes(b"garbage" * 99)
    said = refused(lab, {"teacher": {"weights": "t.safetensors"}})
    assert "teacher.weights: /" in said and "is neither safetensors nor a torch checkpoint" in said


def test_weights_that_are_cut_off(lab: Lab) -> None:
    path = lab.folder / "t.safetensors"
    save_file(weights_of("resnet8"), path)
    path.write_bytes(path.read_bytes()[:-1000])
    said = refused(lab, {"teacher": {"weights": "t.safetensors"}})
    assert f"teacher.weights: {path} is damaged or cut short" in said


def test_weights_of_another_network_are_told_key_by_key(lab: Lab) -> None:
    save_file(weights_of("resnet14"), lab.folder / "t.safetensors")
    said = refused(lab, {"teacher": {"weights": "t.safetensors"}})
    assert "teacher.weights: /" in said and "does not fit resnet8: unexpected" in said
    assert "layer1.1.bn1.weight" in said and "resnet8 has 56 keys, the file 92" in said


def test_weights_of_another_number_of_classes(lab: Lab) -> None:
    save_file(weights_of("resnet8", classes=7), lab.folder / "t.safetensors")
    said = refused(lab, {"teacher": {"weights": "t.safetensors"}})
    assert "the file has 7 classes, the data 10" in said and "teacher.weights: " in said


def test_weights_of_the_student_are_checked_too(lab: Lab) -> None:
    save_file(weights_of("resnet8", width=0.5), lab.folder / "s.safetensors")
    said = refused(lab, {"student": {"weights": "s.safetensors"}})
    assert "student.weights: " in said and "of another shape" in said


# -- data --------------------------------------------------------------------------------------------------------------


def own_data(lab: Lab) -> dict[str, Any]:
    """Digits as shards of one's own in lab.folder / set."""
    for split in ("train", "test"):
        write_shards(list(digit_samples(split))[:96], str(lab.folder / "set" / split), split=split)
    places = {split: str(lab.folder / "set" / split) for split in ("train", "test")}
    return {"data": {"source": None, "root": None, **places}}


def shard(lab: Lab, split: str = "train") -> Path:
    (path,) = (lab.folder / "set" / split).glob("*.parquet")
    return path


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_truncated_shard(lab: Lab, split: str) -> None:
    data = own_data(lab)
    path = shard(lab, split)
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-99])
    said = refused(lab, data)
    assert f"data.{split} {path}: has {whole - 99} bytes instead of {whole}" in said and "Copy the set again" in said
    (path.parent / "manifest.json").unlink()
    assert f"data.{split} {path}: is cut off, or no Parquet file. Copy or write it again" in refused(lab, data)


def test_a_missing_shard(lab: Lab) -> None:
    data = own_data(lab)
    path = shard(lab)
    path.unlink()
    assert f"data.train {path.parent}: holds no *.parquet file" in refused(lab, data)


def relabel(path: Path, label: int | None) -> None:
    table = pq.read_table(path)
    labels = table.column("label").to_pylist()
    labels[3] = label
    (path.parent / "manifest.json").unlink()
    kept = {name: table.column(name) for name in table.column_names} | {"label": pa.array(labels, pa.int64())}
    pq.write_table(pa.table(kept), path)


def test_a_label_out_of_range(lab: Lab) -> None:
    data = own_data(lab)
    relabel(shard(lab), 10)
    relabel(shard(lab, "test"), 0)
    said = refused(lab, {"data": data["data"] | {"classes": 10}})
    assert "data.train " in said and "a label is 10, but 10 classes are expected, so labels are 0..9" in said


def test_a_label_that_is_missing(lab: Lab) -> None:
    data = own_data(lab)
    relabel(shard(lab), None)
    said = refused(lab, {"data": data["data"] | {"classes": 10}})
    assert f"data.train {shard(lab)}: row 3 has no value in column 'label'" in said


def test_train_and_test_of_different_sets(lab: Lab) -> None:
    data = own_data(lab)
    few = lab.folder / "few"
    write_shards([Sample(s.image, s.label % 3, s.id) for s in list(digit_samples("test"))[:64]], str(few))
    said = refused(lab, {"data": data["data"] | {"test": str(few)}})
    assert f"data.test {few}: the data has 3 classes, but 10 are expected" in said


def test_a_missing_column(lab: Lab) -> None:
    data = own_data(lab)
    said = refused(lab, {"data": data["data"] | {"columns": {"label": "lable"}}})
    assert "data.train " in said and "has no column 'lable' as label" in said and "data.columns.label" in said


# -- machine and storage -----------------------------------------------------------------------------------------------


def test_no_space_for_the_checkpoints(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    said = refused(lab, {})
    assert f"storage {lab.store}: checkpoints need about" in said
    assert "Free some space, lower train.checkpoint.keep, or give another storage" in said


def test_a_store_that_must_not_be_written(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdray.store.local import LocalFiles

    def denied(self: object, path: str, data: bytes) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(LocalFiles, "write", denied)
    said = refused(lab, {})
    assert f"storage {lab.store}: no permission to write. Give this user write permission there" in said


def test_a_disk_that_is_full(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdray.store.local import LocalFiles

    def full(self: object, path: str, data: bytes) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(LocalFiles, "write", full)
    assert f"storage {lab.store}: no space left on the device" in refused(lab, {})


@pytest.fixture
def silent_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"storage": "s3://bucket/runs"}, "storage s3://bucket/runs"),
        ({"data": {"source": None, "root": None, "train": "s3://bucket/train"}}, "data.train s3://bucket/train"),
        ({"teacher": {"weights": "s3://bucket/t.safetensors"}}, "teacher.weights s3://bucket/t.safetensors"),
    ],
)
def test_an_endpoint_that_does_not_answer(lab: Lab, silent_endpoint: None, changes: dict[str, Any], key: str) -> None:
    began = time.monotonic()
    said = refused(lab, changes)
    assert time.monotonic() - began < 30
    assert key in said and "endpoint http://127.0.0.1:9 does not answer. Check that it is up" in said


def test_gpus_that_are_not_there(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = refused(lab, {"cluster": {"device": "cuda"}})
    assert "cluster.device: there is no CUDA device here. Write auto or cpu" in said


def test_banks_that_no_memory_holds(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 128 if name == "SC_PHYS_PAGES" else real(name))
    said = refused(lab, {"objectives": {"clmkd.class_guided": {"mode": "memory"}}})
    assert "objectives: stage student distilled keeps" in said and "clmkd.class_guided" in said


def test_an_error_in_a_run_keeps_what_was_done(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only shows in the run ends in one line as well, and the stages before it are kept."""
    monkeypatch.undo()
    monkeypatch.chdir(lab.folder)
    done: Done = lab.run(
        changes={"train": {"optimizer": {"lr": 1e9}}, "teacher": {"train": {"optimizer": {"lr": 0.1}}}}
    )
    said = done.error(1)
    assert "not finite" in said or "diverges" in said
    whole = [name for name in lab.artifacts() if (lab.store / "artifacts" / name / "record.json").exists()]
    assert [name.partition("-")[0] for name in whole] == ["teacher"]
