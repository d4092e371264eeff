"""`--smoke`: the small version of an experiment, whatever it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from kdray.data.dataset import open_dataset
from kdray.experiment import ModelSpec, experiment_from_dict
from kdray.models.zoo import build
from kdray.pipeline.smoke import Smoke, StandIn, smoke

BIG: dict[str, Any] = {
    "data": {
        "train": "s3://bucket/imagenet/train",
        "test": "s3://bucket/imagenet/test",
        "columns": {"image": "jpg", "label": "cls"},
        "classes": 1000,
        "samples": 1281167,
        "mode": "stream",
        "augment": [{"random_resized_crop": {"size": 192, "scale": [0.1, 1.0]}}, "flip"],
        "eval_transform": [{"resize": {"size": 256}}, {"center_crop": {"size": 224}}],
    },
    "teacher": {"model": "torchvision/resnet34", "weights": "IMAGENET1K_V1", "min_accuracy": 0.73},
    "student": {"model": "torchvision/resnet18"},
    "objectives": {"ce": {}, "kd": {}},
    "train": {
        "epochs": 100,
        "batch": 512,
        "accumulate": 2,
        "compile": True,
        "optimizer": {"type": "sgd", "lr": 0.2},
        "schedule": {"type": "multistep", "milestones": [30, 60, 90], "warmup_epochs": 5.0},
    },
    "cluster": {"workers": 8, "cpus_per_worker": 6.0, "data_cpus": 16.0, "address": "ray://head:10001"},
    "storage": "s3://bucket/runs",
}


def small(changes: dict[str, Any] | None = None) -> Smoke:
    from kdray.experiment.merge import merge

    return smoke(experiment_from_dict(merge(BIG, changes or {})))


def test_everything_shrinks() -> None:
    made = small()
    experiment = made.experiment
    assert experiment.storage == "runs/smoke"
    assert (experiment.train.epochs, experiment.train.batch, experiment.train.accumulate) == (2, 16, 2)
    assert experiment.train.schedule.milestones == [1] and experiment.train.schedule.warmup_epochs == 0.5
    assert not experiment.train.compile
    assert experiment.train.clip_norm == 1.0 and experiment.train.divergence_factor is None
    assert small({"train": {"clip_norm": 0.5}}).experiment.train.clip_norm == 0.5
    cluster = experiment.cluster
    assert (cluster.workers, cluster.cpus_per_worker, cluster.data_cpus, cluster.address) == (1, None, None, None)
    data = experiment.data
    assert (data.limit, data.test_limit, data.mode, data.columns.image) == (64, 64, "stream", "image")
    assert data.augment[0]["random_resized_crop"] == {"size": 27, "scale": [0.1, 1.0]}
    assert data.eval_transform == [{"resize": {"size": 37}}, {"center_crop": {"size": 32}}]
    assert experiment.teacher is not None
    assert experiment.teacher.weights is None and experiment.teacher.min_accuracy is None
    # What is the experiment's point stays as it is.
    assert experiment.objectives == {"ce": {}, "kd": {}} and experiment.teacher.model == "torchvision/resnet34"
    assert made.notes == [
        "data: handwritten digits stand in for s3://bucket/imagenet/train",
        "teacher: a random start stands in for the weights IMAGENET1K_V1",
    ]
    assert made.stand_in == StandIn("runs/smoke/digits-of-1000-classes", 1000)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"accumulate": 5, "batch": 480}, {"batch": 15, "accumulate": 5}),
        ({"accumulate": 40, "batch": 640}, {"batch": 40, "accumulate": 40}),
        ({"epochs": 1, "schedule": {"type": "constant"}}, {"epochs": 1, "batch": 16}),
        ({"batch": 8, "accumulate": 1}, {"batch": 8}),
    ],
)
def test_batches_stay_divisible(changes: dict[str, Any], expected: dict[str, int]) -> None:
    train = small({"train": changes}).experiment.train
    assert {key: getattr(train, key) for key in expected} == expected


def test_schedules_stay_valid() -> None:
    one = small({"train": {"epochs": 1, "schedule": {"type": "cosine", "warmup_epochs": 0.9}}}).experiment.train
    assert (one.schedule.type, one.schedule.warmup_epochs) == ("cosine", 0.5)
    teacher = {"train": {"epochs": 50, "batch": 96, "optimizer": {"lr": 0.1}, "schedule": {"type": "onecycle"}}}
    made = small({"teacher": teacher}).experiment
    assert made.teacher is not None and made.teacher.train is not None
    assert (made.teacher.train.epochs, made.teacher.train.batch, made.teacher.train.schedule.type) == (
        2,
        16,
        "onecycle",
    )


def test_networks_of_the_zoo_get_narrower_unless_told() -> None:
    made = small({"teacher": {"model": "resnet56"}, "student": {"model": "resnet8", "params": {"width": 2}}}).experiment
    assert made.teacher is not None and made.student is not None
    assert made.teacher.params == {"width": 0.5} and made.student.params == {"width": 2}


def test_images_stay_as_large_as_the_networks_need() -> None:
    made = small({"student": {"model": "torchvision/inception_v3"}}).experiment.data
    assert made.eval_transform[1] == {"center_crop": {"size": 128}}
    assert (
        small({"data": {"eval_transform": [{"center_crop": {"size": 32}}], "augment": []}}).experiment.data.augment
        == []
    )


def test_weights_that_are_here_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(build(ModelSpec(model="resnet8"), 1000, 32).backbone.state_dict(), tmp_path / "t.safetensors")
    made = small({"teacher": {"model": "resnet8", "weights": "t.safetensors"}})
    assert made.experiment.teacher is not None
    assert made.experiment.teacher.weights == "t.safetensors" and made.experiment.teacher.params == {}
    assert len(made.notes) == 1


def test_nothing_is_written_until_the_stand_in_is_laid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = small({"data": {"classes": 25, "eval_transform": [], "augment": []}, "student": {"model": "resnet8"}})
    assert list(tmp_path.iterdir()) == [] and made.stand_in is not None
    scratch = tmp_path / "scratch"
    elsewhere = made.stand_in.lay(made.experiment, str(scratch))
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    here = made.stand_in.lay(made.experiment)
    assert (tmp_path / "runs/smoke/digits-of-25-classes/train/manifest.json").exists()
    datasets = [open_dataset(experiment.data) for experiment in (elsewhere, here)]
    assert datasets[0].fingerprints() == datasets[1].fingerprints()
    assert datasets[0].labels is not None
    assert set(datasets[0].labels.tolist()) == set(range(25))
    assert here.data.train == str(tmp_path / "runs/smoke/digits-of-25-classes/train")
    before = (tmp_path / "runs/smoke/digits-of-25-classes/train/manifest.json").stat().st_mtime_ns
    made.stand_in.lay(made.experiment)
    assert (tmp_path / "runs/smoke/digits-of-25-classes/train/manifest.json").stat().st_mtime_ns == before


def test_a_stand_in_of_few_classes(tmp_path: Path) -> None:
    made = StandIn(str(tmp_path / "few"), 3).lay(small().experiment)
    dataset = open_dataset(made.data.model_copy(update={"classes": 3, "eval_transform": [], "augment": []}))
    assert dataset.num_classes == 3 and dataset.labels is not None
    assert set(dataset.labels.tolist()) == {0, 1, 2}


SEARCH: dict[str, Any] = {
    "space": {
        "objectives.kd.weight": "uniform(0.1, 2)",
        "train.batch": [256, 512],
        "train.optimizer.lr": "loguniform(0.01, 1)",
    },
    "trials": 64,
    "scheduler": "asha",
    "at": {"epochs": 30},
    "transfer": {"set": {"train.epochs": 20}},
}


def test_a_search_is_a_few_trials_of_the_small_experiment() -> None:
    made = small({"search": SEARCH})
    search = made.experiment.search
    assert search is not None and search.own_space is not None
    assert (search.trials, search.scheduler.type, search.transfer) == (3, "asha", None)
    assert search.at is not None and search.at.epochs == made.experiment.train.epochs == 2
    assert search.own_space.names() == ["objectives.kd.weight", "train.optimizer.lr"]
    said = [note for note in made.notes if note.startswith("search: ")]
    assert len(said) == 2 and "no proxy" in said[0] and "train.batch" in said[1]


def test_a_small_search_stays_as_it_is() -> None:
    search = small({"search": {"trials": 2, "at": {"epochs": 1}}}).experiment.search
    assert search is not None
    assert (search.trials, search.space) == (2, "default")
    assert search.at is not None and search.at.epochs == 1
