"""`--smoke`: any experiment, made small enough for a laptop and a minute, through the same path.

Data, epochs, batch and image size shrink; the zoo's own networks get narrower. What cannot be reached from a laptop is
replaced and said so: data by scikit-learn's handwritten digits with the experiment's number of classes, a teacher's
weights by one epoch of training.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from kdray.data.digits import digit_samples
from kdray.data.sources import is_present
from kdray.data.writer import write_shards
from kdray.errors import InputError
from kdray.experiment import Data, Experiment, ModelSpec, Train, experiment_from_dict
from kdray.models.registry import find
from kdray.models.weights import is_published
from kdray.store import Store, exists_uri

IMAGES, BATCH, EPOCHS, LARGE = 256, 32, 2, 64
WIDTH = 0.5


def smoke(experiment: Experiment) -> tuple[Experiment, list[str]]:
    """Return the small version of `experiment`, and one line for everything that was replaced."""
    notes: list[str] = []
    plain = experiment.model_dump(mode="json", exclude_unset=True)
    storage = "runs" if "://" in experiment.storage else experiment.storage
    plain["storage"] = os.path.join(storage, "smoke")
    plain["train"] = _small_train(experiment.train, experiment.cluster.workers)
    cluster = plain.setdefault("cluster", {})
    cluster["workers"] = min(1, experiment.cluster.workers)
    for key in ("cpus_per_worker", "data_cpus", "address"):
        cluster.pop(key, None)
    if experiment.cluster.gpus_per_worker and not torch.cuda.is_available():
        cluster["gpus_per_worker"] = 0
        if cluster.get("device") == "cuda":
            cluster["device"] = "auto"
    _small_data(experiment, plain, notes)
    for role in ("teacher", "student"):
        spec = getattr(experiment, role)
        if spec is not None:
            _small_model(spec, plain[role], role, notes)
    if experiment.teacher is not None:
        plain["teacher"].pop("min_accuracy", None)
        if experiment.teacher.train is not None:
            plain["teacher"]["train"] = _small_train(experiment.teacher.train, experiment.cluster.workers)
    return experiment_from_dict(plain, where="--smoke"), notes


def _small_train(train: Train, workers: int) -> dict[str, Any]:
    plain = train.model_dump(mode="json", exclude_unset=True)
    parts = max(1, min(1, workers)) * train.accumulate
    plain["batch"] = max(parts, min(BATCH, train.batch) // parts * parts)
    plain["epochs"] = min(EPOCHS, train.epochs)
    schedule = plain.get("schedule", {})
    if schedule.get("type") == "multistep":
        schedule["milestones"] = [1] if plain["epochs"] > 1 else []
        if not schedule["milestones"]:
            plain["schedule"] = {"type": "constant"}
    if schedule.get("warmup_epochs"):
        schedule["warmup_epochs"] = 0.5
    plain["compile"] = False
    plain["log_every"] = 5
    return plain


def _small_data(experiment: Experiment, plain: dict[str, Any], notes: list[str]) -> None:
    data = plain["data"]
    data["limit"] = min(IMAGES, experiment.data.limit or IMAGES)
    data["test_limit"] = min(IMAGES, experiment.data.test_limit or IMAGES)
    data["augment"] = [_small_transform(item) for item in data.get("augment", [])]
    data["eval_transform"] = [_small_transform(item) for item in data.get("eval_transform", [])]
    if _reachable(experiment.data):
        return
    classes = experiment.data.classes or {"cifar10": 10, "cifar100": 100}.get(experiment.data.source or "", 10)
    if classes < 10:
        classes = 10  # a stand-in has ten kinds of digits
    where = Store(plain["storage"]).sub(f"stand-in-{classes}")
    names = [f"class {number}" for number in range(classes)]
    for split in ("train", "test"):
        if not where.exists(f"{split}/manifest.json"):
            write_shards(digit_samples(split), where.path_uri(split), class_names=names, split=split)
    data |= {"train": where.path_uri("train"), "test": where.path_uri("test"), "classes": classes}
    data.pop("source", None)
    data.pop("columns", None)
    notes.append(f"data: handwritten digits stand in for {experiment.data.source or experiment.data.train}")


def _reachable(data: Data) -> bool:
    """Data of this machine only: a laptop's smoke run should not wait for a cluster's bucket."""
    if data.source not in (None, "shards"):
        return is_present(data)
    if data.train is None or "://" in data.train:
        return False
    try:
        folder = data.train if "*" not in data.train else os.path.dirname(data.train)
        return os.path.exists(folder)
    except InputError:
        return False


def _small_transform(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    (name, params), *_ = item.items()
    params = dict(params or {})
    if isinstance(params.get("size"), int) and params["size"] > LARGE:
        params["size"] = round(params["size"] * LARGE / 224)
    return {name: params}


def _small_model(spec: ModelSpec, plain: dict[str, Any], role: str, notes: list[str]) -> None:
    if spec.weights is not None:
        if not is_published(spec.model, spec.weights) and "://" not in spec.weights and exists_uri(spec.weights):
            return  # real weights fit the real width alone
        plain["weights"] = None
        notes.append(f"{role}: a random start stands in for the weights {spec.weights}")
    entry = find(spec.model)
    if entry is not None and "width" in entry.accepted and "width" not in spec.params:
        plain["params"] = {**plain.get("params", {}), "width": WIDTH}
