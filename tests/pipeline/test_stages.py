"""Digests: what changes a stage's name and what does not, and which stages an experiment has."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from kdray.data.decode import encode_png
from kdray.data.digits import digit_samples
from kdray.data.writer import Sample, write_shards
from kdray.experiment import ModelSpec, load_experiment
from kdray.models.zoo import build
from kdray.pipeline.plan import Plan, make_plan
from tests.tiny import Lab


def plan_of(lab: Lab, changes: dict[str, Any] | None = None) -> Plan:
    return make_plan(load_experiment(lab.write(changes)), dry=True)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> dict[str, str]:
    """Digests of TINY with a student alone beside."""
    return digests(plan_of(Lab(tmp_path_factory.mktemp("before"), digits), ALONE))


def digests(plan: Plan) -> dict[str, str]:
    return {stage.name: stage.digest for stage, _ in plan.stages} | {"run": plan.digest}


ALONE = {"student": {"alone": True}}
TEACHER, ALONE_ONLY, STUDENT = {"teacher"}, {"student_alone"}, {"student"}
ALL = TEACHER | ALONE_ONLY | STUDENT


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other", "storage": "elsewhere"},
        {"cluster": {"workers": 0, "max_failures": 7, "device": "cpu", "cpus_per_worker": 2.0}},
        {
            "train": {
                "log_every": 1,
                "checkpoint": {"every_steps": 1, "every_epochs": 1, "every_minutes": 3.0, "keep": 5},
            }
        },
        {"train": {"divergence_factor": 3.0}},
        {"evaluate": {"batch": 7}},
        {"data": {"mode": "stream", "samples": 5, "max_bad_fraction": 0.5, "classes": 10}},
        {"teacher": {"min_accuracy": 0.01}},
        # defaults, written out
        {"teacher": {"data": {"views": 1, "augment": ["pad_crop"]}}},  # as the experiment's
        {"seed": 0, "data": {"views": 1, "validation": 0.1}, "objectives": {"ce": {"weight": 1.0}}},
        {"data": {"fraction": 1.0, "fraction_seed": 0, "label_noise": {"fraction": 0.0, "type": "pair"}}},
        {"train": {"optimizer": {"momentum": 0.9, "nesterov": False}, "schedule": {"type": "constant"}, "ema": None}},
        {"objectives": {"kd": {"schedule": {"type": "constant"}}}},
    ],
)
def test_what_changes_no_result_changes_no_digest(lab: Lab, before: dict[str, str], changes: dict[str, Any]) -> None:
    assert digests(plan_of(lab, ALONE | changes)) == before


def test_comments_key_order_and_base_files_change_no_digest(lab: Lab, before: dict[str, str]) -> None:
    path = lab.write(ALONE)
    lines = path.read_text().splitlines()
    starts = [n for n, line in enumerate(lines) if not line.startswith((" ", "-"))] + [len(lines)]
    parts = ["\n".join(lines[a:b]) for a, b in itertools.pairwise(starts)]
    turned = lab.folder / "turned.yaml"
    turned.write_text("# another comment\n" + "\n# between\n".join(reversed(parts)) + "\n")
    assert turned.read_text() != path.read_text()
    assert digests(make_plan(load_experiment(turned), dry=True)) == before
    over = lab.folder / "over.yaml"
    over.write_text("base: turned.yaml\n")
    assert digests(make_plan(load_experiment(over), dry=True)) == before


@pytest.mark.parametrize(
    "changes, changed",
    [
        ({"seed": 1}, ALL),
        ({"train": {"epochs": 2}}, ALL),
        ({"train": {"optimizer": {"lr": 0.1}}}, ALL),
        ({"data": {"limit": 96}}, ALL),
        ({"data": {"validation": 0}}, ALL),
        ({"data": {"fraction": 0.5}}, ALL),
        ({"data": {"fraction": 0.999, "fraction_seed": 1}}, ALL),
        ({"data": {"label_noise": {"fraction": 0.2}}}, ALL),
        ({"data": {"label_noise": {"fraction": 0.2, "type": "uniform", "seed": 1}}}, ALL),
        ({"data": {"augment": ["pad_crop", "flip"]}}, ALL),
        ({"data": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}}, ALL),
        ({"evaluate": {"precision": "bf16"}}, ALL),
        # What is the student's alone leaves the teacher as it is.
        ({"objectives": {"kd": {"temperature": 3}}}, STUDENT),
        ({"objectives": {"kd": {"weight": 0.5}}}, STUDENT),
        ({"objectives": {"clmkd": {}}}, STUDENT),
        ({"student": {"params": {"width": 0.25}}}, ALONE_ONLY | STUDENT),
        ({"student": {"model": "resnet14"}}, ALONE_ONLY | STUDENT),
        # A teacher of another kind changes the student that it teaches, and not the one alone.
        ({"teacher": {"params": {"width": 0.5}}}, TEACHER | STUDENT),
        ({"teacher": {"objectives": {"ce": {"label_smoothing": 0.1}}}}, TEACHER | STUDENT),
        ({"teacher": {"train": {"epochs": 2}}}, TEACHER | STUDENT),
        ({"teacher": {"data": {"views": 2}}}, TEACHER | STUDENT),
        ({"teacher": {"data": {"augment": ["flip"]}}}, TEACHER | STUDENT),
    ],
)
def test_what_changes_a_result_changes_its_stages(
    lab: Lab, before: dict[str, str], changes: dict[str, Any], changed: set[str]
) -> None:
    after = digests(plan_of(lab, {**changes, "student": ALONE["student"] | changes.get("student", {})}))
    assert {name for name in before if before[name] != after[name]} == changed | {"run"}


def test_a_teachers_own_data_keeps_it_when_the_students_changes(lab: Lab) -> None:
    own = {"teacher": {"data": {"views": 2, "augment": ["flip"]}}}
    others = {"data": {"views": 3, "augment": ["pad_crop", "flip"]}}
    before, after = (digests(plan_of(lab, own | changes)) for changes in ({}, others))
    assert before["teacher"] == after["teacher"] and before["student"] != after["student"]
    plan = plan_of(lab, own)
    seen = {stage.name: (stage.spec.data.views, stage.spec.data.augment) for stage, _ in plan.stages}
    assert seen == {"teacher": (2, ["flip"]), "student": (1, ["pad_crop"])}


def test_a_teachers_own_data_has_no_part_in_its_evaluation(lab: Lab) -> None:
    path = lab.folder / "given.safetensors"
    save_file(build(ModelSpec(model="resnet8", params={"width": 0.25}), 10, 32).backbone.state_dict(), path)
    given = {"teacher": {"weights": str(path)}}
    own = {"teacher": {"weights": str(path), "data": {"views": 2, "augment": ["flip"]}}}
    assert digests(plan_of(lab, given)) == digests(plan_of(lab, own))


def test_a_teachers_own_train_keeps_it_when_the_students_changes(lab: Lab) -> None:
    own = {"teacher": {"train": {"epochs": 2, "batch": 32, "precision": "fp32", "optimizer": {"lr": 0.05}}}}
    before = digests(plan_of(lab, own))
    after = digests(plan_of(lab, own | {"train": {"schedule": {"type": "cosine"}}, "teacher": own["teacher"]}))
    assert before["student"] != after["student"]
    # The teacher's train is merged over the experiment's: a schedule that it does not state is the experiment's.
    assert before["teacher"] != after["teacher"]
    stated = {"teacher": {"train": own["teacher"]["train"] | {"schedule": {"type": "constant"}}}}
    assert digests(plan_of(lab, stated | {"train": {"schedule": {"type": "cosine"}}}))["teacher"] == before["teacher"]


def shards(folder: Path, *, brighter: int = 0, relabelled: int | None = None) -> dict[str, Any]:
    """Digits as shards of one's own; one pixel or one label may differ."""
    for split in ("train", "test"):
        samples = list(digit_samples(split))[:80]
        if split == "train":
            image = cv2.imdecode(np.frombuffer(samples[5].image, np.uint8), cv2.IMREAD_COLOR)
            image[0, 0] = brighter
            label = samples[5].label if relabelled is None else relabelled
            samples[5] = Sample(encode_png(image), label, samples[5].id)
        write_shards(samples, str(folder / split), class_names=[str(n) for n in range(10)], split=split)
    return {"data": {"source": None, "train": str(folder / "train"), "test": str(folder / "test"), "root": None}}


def test_digests_follow_the_bytes_of_the_data_and_not_their_place(lab: Lab) -> None:
    one = shards(lab.folder / "one")
    before = digests(plan_of(lab, one))
    shutil.copytree(lab.folder / "one", lab.folder / "moved")
    moved = {"data": one["data"] | {"train": str(lab.folder / "moved/train"), "test": str(lab.folder / "moved/test")}}
    assert digests(plan_of(lab, moved)) == before
    for number, other in enumerate(({"brighter": 9}, {"relabelled": 0})):
        changed = digests(plan_of(lab, shards(lab.folder / f"other{number}", **other)))
        assert not set(changed.values()) & set(before.values()), other


def test_digests_follow_the_bytes_of_given_weights(lab: Lab) -> None:
    record = lab.done(changes={"student": None, "objectives": {"ce": None, "kd": None}})
    given = Path(record["stages"][0]["artifact"]) / "model.safetensors"
    weights = load_file(given)
    for name in ("a", "b"):
        save_file(weights, lab.folder / f"{name}.safetensors")
    first = next(iter(weights))
    weights[first] = weights[first] + 1
    save_file(weights, lab.folder / "c.safetensors")
    plans = {name: plan_of(lab, {"teacher": {"weights": f"{name}.safetensors"}}) for name in "abc"}
    assert digests(plans["a"]) == digests(plans["b"])
    for stage in ("teacher", "student"):
        assert digests(plans["a"])[stage] != digests(plans["c"])[stage]
    # Two files of one artifact's folder are two teachers as well.
    last = plan_of(lab, {"teacher": {"weights": str(given)}})
    save_file(weights, given.with_name("last.safetensors"))
    best = plan_of(lab, {"teacher": {"weights": str(given.with_name("last.safetensors"))}})
    assert digests(last)["student"] != digests(best)["student"]


def test_an_evaluation_does_not_depend_on_training(lab: Lab) -> None:
    net = build(ModelSpec(model="resnet8", params={"width": 0.25}), 10, 32)
    save_file(net.backbone.state_dict(), lab.folder / "t.safetensors")
    given = {"teacher": {"weights": "t.safetensors"}}
    before = digests(plan_of(lab, given))
    for changes in ({"seed": 1}, {"train": {"epochs": 2}}, {"data": {"augment": []}}, {"data": {"views": 2}}):
        after = digests(plan_of(lab, given | changes))
        assert after["teacher"] == before["teacher"] and after["student"] != before["student"], changes
    for changes in ({"data": {"test_limit": 9}}, {"data": {"eval_transform": [{"center_crop": {"size": 28}}]}}):
        assert digests(plan_of(lab, given | changes))["teacher"] != before["teacher"], changes


@pytest.mark.parametrize(
    "changes, titles",
    [
        ({}, ["teacher", "student distilled"]),
        (ALONE, ["teacher", "student alone", "student distilled"]),
        ({"teacher": None, "objectives": {"kd": None}}, ["student"]),
        ({"student": None}, ["teacher"]),
        # It brings its weights and there is nothing to judge it on: it teaches without a stage.
        ({"teacher": {"weights": "t.safetensors"}, "data": {"validation": 0}}, ["student distilled"]),
    ],
)
def test_stages_and_their_order(lab: Lab, changes: dict[str, Any], titles: list[str]) -> None:
    if "weights" in (changes.get("teacher") or {}):
        net = build(ModelSpec(model="resnet8", params={"width": 0.25}), 10, 32)
        save_file(net.backbone.state_dict(), lab.folder / "t.safetensors")
        write_shards(list(digit_samples("train"))[:80], str(lab.folder / "train"))
        changes = changes | {
            "data": {"source": None, "root": None, "validation": 0, "train": str(lab.folder / "train")}
        }
    assert [stage.title for stage, _ in plan_of(lab, changes).stages] == titles
