"""Teachers without a classifier, from their own training to a student that learned from their features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdray.data.digits import digit_samples
from kdray.data.writer import write_shards
from kdray.experiment import ModelSpec, load_experiment
from kdray.models.export import load_exported
from kdray.pipeline.plan import make_plan
from kdray.pipeline.smoke import smoke
from tests.tiny import Lab, command

SSL: dict[str, Any] = {
    "data": {"views": 4, "augment": ["rot90_views", "pad_crop"]},
    "teacher": {
        "classifier": False,
        "objectives": {"simclr": {"dim": 8}},
        "data": {"views": 2, "augment": [{"random_resized_crop": {"size": 32, "scale": [0.4, 1.0]}}]},
    },
    "objectives": {"ce": None, "kd": None, "mlkd": {"supervised": {"dim": 8}}},
    "evaluate": {"linear_probe": True},
}


def test_a_student_learns_from_a_teacher_that_saw_no_labels(lab: Lab) -> None:
    done = lab.run(changes=SSL)
    assert done.code == 0, done.out + done.err
    record = lab.record(done)
    teacher, student = record["stages"]
    assert teacher["made_of"]["data"]["views"] == 2 and student["made_of"]["data"]["views"] == 4
    assert set(teacher["history"][0]) & {"loss/simclr"} and "val/top1" not in teacher["history"][0]
    assert "top1" not in teacher["test"] and 0 <= teacher["test"]["knn"] <= 1
    assert (teacher["test"]["images"], teacher["test"]["knn_train_images"]) == (64, 64)
    assert teacher["test_best"] is None and teacher["best_epoch"] is None
    assert 0 <= student["test"]["top1"] <= 1 and "val/top1" in student["history"][0]
    for stage in (teacher, student):
        assert (stage["linear_probe"]["images"], stage["linear_probe"]["train_images"]) == (64, 64)
    row = next(line for line in done.out.splitlines() if "teacher: resnet8" in line and "│" in line)
    assert f"kNN {100 * teacher['test']['knn']:.2f} %" in row
    for title, stage in (("teacher", teacher), ("student distilled", student)):
        assert f"{title}: linear probe {100 * stage['linear_probe']['top1']:.2f} % top-1 on test" in done.out
    assert "teacher: no classifier, so no accuracy: kNN" in done.out

    state = load_file(Path(teacher["artifact"]) / "model.safetensors")
    assert not any(key.startswith("fc.") for key in state)
    net, card = load_exported(str(Path(teacher["artifact"]) / "model.json"))
    assert net.info.num_classes is None and card["test"] == teacher["test"]
    assert net.eval()(torch.zeros(1, 3, 32, 32)).pooled.shape == (1, 16)

    # Another student shares the teacher.
    rkd = {**SSL, "objectives": {"ce": {}, "kd": None, "rkd": {}}}
    assert [stage["reused"] for stage in lab.done(changes=rkd)["stages"]] == [True, False]


def test_weights_of_a_headless_teacher_are_only_judged(lab: Lab) -> None:
    (first, _) = lab.done(changes=SSL)["stages"]
    weights = str(Path(first["artifact"]) / "model.safetensors")
    alone = {"teacher": {"classifier": False, "weights": weights}, "student": None}
    alone |= {"objectives": {"ce": None, "kd": None}, "evaluate": {"linear_probe": True}}
    (stage,) = lab.done(changes=alone)["stages"]
    assert stage["epochs"] == 0 and stage["validation"] is None
    assert stage["test"] == first["test"] and stage["linear_probe"] == first["linear_probe"]


def test_a_whole_networks_weights_serve_without_its_classifier(lab: Lab) -> None:
    (trained,) = lab.done(changes={"student": None, "objectives": {"ce": None, "kd": None}})["stages"]
    weights = str(Path(trained["artifact"]) / "model.safetensors")
    record = lab.done(
        changes={"teacher": {"classifier": False, "weights": weights}, "objectives": {"kd": None, "rkd": {}}}
    )
    assert "knn" in record["stages"][0]["test"] and "top1" in record["stages"][1]["test"]


def test_without_a_test_set_there_is_nothing_to_judge_it_on(lab: Lab) -> None:
    write_shards(list(digit_samples("train"))[:80], str(lab.folder / "train"))
    data = {"source": None, "root": None, "train": str(lab.folder / "train"), "validation": 0.2}
    record = lab.done(changes={**SSL, "data": {**SSL["data"], **data}})
    assert [stage["test"] for stage in record["stages"]] == [None, None]
    assert not any("linear_probe" in stage for stage in record["stages"])
    weights = str(Path(record["stages"][0]["artifact"]) / "model.safetensors")
    given = {"classifier": False, "weights": weights, "objectives": None, "data": None}
    # A teacher that brings its weights needs no stage then; alone it has nothing to show.
    (student,) = lab.done(changes={**SSL, "data": {**SSL["data"], **data}, "teacher": given})["stages"]
    assert student["stage"] == "student"
    alone = {"data": data, "teacher": given, "student": None, "objectives": {"ce": None, "kd": None}}
    assert "data.test: there is nothing to evaluate the teacher on" in lab.run(changes=alone).error()


def test_a_student_may_have_no_classifier_either(lab: Lab) -> None:
    changes = {**SSL, "student": {"classifier": False}}
    changes["objectives"] = {"ce": None, "kd": None, "mlkd.alignment": {"hidden": 16}, "mlkd.correlation": {}}
    teacher, student = lab.done(changes=changes)["stages"]
    assert "knn" in student["test"] and "linear_probe" in student and teacher["test"]["knn"] >= 0


def test_a_probe_beside_an_accuracy(lab: Lab) -> None:
    alone = {"student": None, "objectives": {"ce": None, "kd": None}, "evaluate": {"linear_probe": {"limit": 40}}}
    (stage,) = lab.done(changes=alone)["stages"]
    assert stage["linear_probe"]["train_images"] == 40 and "top1" in stage["test"]


def test_plan_of_a_headless_teacher(lab: Lab) -> None:
    path = lab.write(SSL)
    out = command(path, "--dry-run").out
    assert "  no classifier: judged on test by the features' nearest among 10000 training images" in out
    assert out.count("  linear probe on test: 50 epochs, batch 256, lr 3") == 2
    assert ", 2 views of each" in out and ", 4 views of each" in out
    plan = make_plan(load_experiment(path), dry=True)
    sizes = {stage.name: size for stage, size in plan.stages}
    whole, headless = sizes["student"].student, sizes["student"].teacher
    assert headless is not None and headless.num_classes is None and whole.num_classes == 10
    # forward and backward of the student and the teacher's forward, of four views
    assert sizes["student"].flops_per_image == 4 * (3 * whole.flops + headless.flops)


def test_the_probe_and_the_classifier_are_in_the_digests(lab: Lab) -> None:
    def digests(changes: dict[str, Any]) -> dict[str, str]:
        return {
            stage.name: stage.digest for stage, _ in make_plan(load_experiment(lab.write(changes)), dry=True).stages
        }

    before = digests(SSL)
    for changes in (
        {**SSL, "evaluate": {}},
        {**SSL, "evaluate": {"linear_probe": {"epochs": 3}}},
        {**SSL, "teacher": {**SSL["teacher"], "classifier": True}},
    ):
        after = digests(changes)
        assert all(before[name] != after[name] for name in before)
    assert digests({**SSL, "evaluate": {"linear_probe": {}}}) == before
    assert digests({**SSL, "student": {"classifier": True}}) == before


def test_the_small_version_keeps_what_a_teacher_sees(lab: Lab) -> None:
    small = smoke(load_experiment(lab.write(SSL))).experiment
    assert small.teacher is not None and not small.teacher.classifier
    assert small.teacher_data.views == 2 and small.data.views == 4
    big = [{"resize": {"size": 128}}, {"center_crop": {"size": 128}}]
    augment = [{"random_resized_crop": {"size": 128}}]
    scaled = {"eval_transform": big, "augment": augment}
    own = {**SSL, "data": {**SSL["data"], **scaled}, "teacher": {**SSL["teacher"], "data": {"augment": augment}}}
    teacher = smoke(load_experiment(lab.write(own))).experiment.teacher
    assert teacher is not None and teacher.data.augment == [{"random_resized_crop": {"size": 32}}]


@pytest.mark.parametrize("value", [True, {}, {"epochs": 50}])
def test_true_is_the_defaults(lab: Lab, value: Any) -> None:
    experiment = load_experiment(lab.write({"evaluate": {"linear_probe": value}}))
    assert experiment.evaluate.linear_probe is not None and experiment.evaluate.linear_probe.epochs == 50
    assert experiment.evaluate.canonical() == {"linear_probe": {}}
    assert load_experiment(lab.write({"evaluate": {"linear_probe": False}})).evaluate.canonical() == {}


def test_the_spec_of_a_network_says_so_in_its_record(lab: Lab) -> None:
    (teacher, _) = lab.done(changes=SSL)["stages"]
    assert teacher["made_of"]["model"]["classifier"] is False
    assert ModelSpec(model="resnet8").canonical() == {"model": "resnet8"}
    assert json.loads((Path(teacher["artifact"]) / "model.json").read_text())["classifier"] is False
