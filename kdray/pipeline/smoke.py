"""`--smoke`: any experiment on a laptop in a minute, through the same path.

Data, epochs, batch and image size shrink; the zoo's own networks get narrower. What cannot be reached from a laptop is
replaced and said so: data by scikit-learn's handwritten digits with the experiment's number of classes, a teacher's
weights by a short training.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from kdray.data.augment import output_size
from kdray.data.digits import digit_samples
from kdray.data.sources import builtin_facts, is_present
from kdray.data.writer import write_shards
from kdray.errors import ModelError
from kdray.experiment import Comparison, Data, Experiment, ModelSpec, Train, experiment_from_dict
from kdray.experiment.search_part import Search
from kdray.models.foreign import is_foreign
from kdray.models.registry import find
from kdray.models.weights import is_published
from kdray.models.zoo import describe
from kdray.store import Store, exists_uri

IMAGES, BATCH, EPOCHS, WIDTH = 64, 16, 2, 0.5
TRIALS = 3
SHRUNK = ("data", "train.epochs", "train.batch", "train.schedule", "teacher", "student")
SIZES = (32, 64, 128)  # images are as small as the networks bear
UNKNOWN_CLASSES = 10


@dataclass(frozen=True)
class StandIn:
    """Handwritten digits in the place of data that is not here: shards in `folder`, told apart into `classes`."""

    folder: str
    classes: int

    def lay(self, experiment: Experiment, scratch: str | None = None) -> Experiment:
        """Write the shards where they are not yet, and return `experiment` with their place.

        That is `folder`, or inside of `scratch` for a dry run.
        """
        home = Store(self.folder if scratch is None else os.path.join(scratch, "stand-in"))
        for split in ("train", "test"):
            if not home.exists(f"{split}/manifest.json"):
                names = [f"class {number}" for number in range(self.classes)]
                samples = digit_samples(split, classes=self.classes)
                write_shards(samples, home.path_uri(split), class_names=names, split=split)
        places = {split: home.path_uri(split) for split in ("train", "test")}
        return experiment.model_copy(update={"data": experiment.data.model_copy(update=places)})


@dataclass(frozen=True)
class Smoke:
    """The small version of an experiment, a line for everything that was replaced, and the data to lay first."""

    experiment: Experiment
    notes: list[str]
    stand_in: StandIn | None


def smoke_all(comparison: Comparison) -> tuple[Comparison, list[str], dict[str, StandIn]]:
    """The small version of every experiment, what was replaced in any, and the data to lay for those of these names."""
    small = {name: smoke(experiment) for name, experiment in comparison.experiments.items()}
    notes = list(dict.fromkeys(note for one in small.values() for note in one.notes))
    stand_ins = {name: one.stand_in for name, one in small.items() if one.stand_in is not None}
    return comparison.with_experiments({name: one.experiment for name, one in small.items()}), notes, stand_ins


def smoke(experiment: Experiment) -> Smoke:
    """Make the small version of `experiment`; nothing is written."""
    notes: list[str] = []
    plain = experiment.model_dump(mode="json", exclude_unset=True)
    storage = "runs" if "://" in experiment.storage else experiment.storage
    plain["storage"] = os.path.join(storage, "smoke")
    mixes = (experiment.data.mix or experiment.teacher_data.mix) is not None
    plain["train"] = _small_train(experiment.train, mixes)
    plain["cluster"] = _small_cluster(experiment, plain.get("cluster", {}))
    stand_in = _small_data(experiment, plain, notes)
    for role in ("teacher", "student"):
        spec = getattr(experiment, role)
        if spec is not None:
            _small_model(spec, plain[role], role, notes, stand_in is None or experiment.data.classes is not None)
    if experiment.teacher is not None:
        plain["teacher"].pop("min_accuracy", None)
        if experiment.teacher.train is not None:
            plain["teacher"]["train"] = _small_train(experiment.teacher.train, mixes)
    if experiment.search is not None:
        _small_search(experiment.search, plain["search"], notes)
    _small_phases(experiment, plain, notes)
    _small_images(plain)
    return Smoke(experiment_from_dict(plain, where="--smoke"), notes, stand_in)


def _small_cluster(experiment: Experiment, plain: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in plain.items() if key not in ("cpus_per_worker", "data_cpus", "address")}
    plain["workers"] = min(1, experiment.cluster.workers)
    if not torch.cuda.is_available():
        plain.pop("gpus_per_worker", None)
        plain.pop("device", None)
    return plain


def _small_search(search: Search, plain: dict[str, Any], notes: list[str]) -> None:
    """A few trials, whose parameters do not undo what makes the experiment small."""
    plain["trials"] = min(TRIALS, search.trials or TRIALS)
    if search.at is not None and search.at.epochs is not None:
        plain["at"] = {"epochs": min(EPOCHS, search.at.epochs)}
    if search.transfer is not None:
        plain.pop("transfer")
        notes.append("search: no proxy, the experiment is small itself")
    if search.space != "default":
        left = {name: one for name, one in search.space.items() if not name.startswith(SHRUNK)}
        dropped = [name for name in search.space if name not in left]
        if dropped:
            notes.append(f"search: {', '.join(dropped)} is left as the small version has it")
        plain["space"] = left or "default"


def _small_train(train: Train, mixes: bool) -> dict[str, Any]:
    plain = train.model_dump(mode="json", exclude_unset=True)
    unit = math.lcm(train.accumulate, 2) if mixes else train.accumulate  # mixed images come in pairs
    plain["batch"] = max(unit, min(BATCH, train.batch) // unit * unit)
    plain["epochs"] = min(EPOCHS, train.epochs)
    schedule = plain.get("schedule", {})
    if schedule.get("type") == "multistep":
        plain["schedule"] = schedule | {"milestones": [1]} if plain["epochs"] > 1 else {"type": "constant"}
    if schedule.get("warmup_epochs"):
        plain["schedule"]["warmup_epochs"] = 0.5
    # Norms of a deep teacher are far from settled after a few steps, and its features may be of any size: what learns
    # from them is held together, for it is the path that is tried here and not the recipe.
    plain |= {"clip_norm": min(1.0, train.clip_norm or 1.0), "divergence_factor": None}
    plain |= {"compile": False, "log_every": 2}
    return plain


def _small_phases(experiment: Experiment, plain: dict[str, Any], notes: list[str]) -> None:
    """One phase with the changes of all."""
    if not experiment.phases:
        return
    changes = {path: value for phase in experiment.phases for path, value in phase.set.items()}
    changes.pop("train.clip_norm", None)  # a smoke run clips throughout
    plain["phases"] = [{"from_epoch": 1, "set": changes}] if changes and plain["train"]["epochs"] > 1 else []
    notes.append("phases: the changes of all of them come after the first epoch")


def _small_data(experiment: Experiment, plain: dict[str, Any], notes: list[str]) -> StandIn | None:
    given, data = experiment.data, plain["data"]
    data["limit"] = min(IMAGES, given.limit or IMAGES)
    data["test_limit"] = min(IMAGES, given.test_limit or IMAGES)
    if _reachable(given):
        return None
    classes = given.classes or (builtin_facts(given.source).classes if given.source else UNKNOWN_CLASSES)
    stand_in = StandIn(os.path.join(plain["storage"], f"digits-of-{classes}-classes"), classes)
    places = {split: Store(stand_in.folder).path_uri(split) for split in ("train", "test")}
    for key in ("source", "columns", "samples"):
        data.pop(key, None)
    data |= places | {"classes": classes}
    notes.append(f"data: handwritten digits stand in for {given.source or given.train}")
    return stand_in


def _reachable(data: Data) -> bool:
    """Data of this machine only: a laptop's smoke run should not wait for a cluster's bucket."""
    if data.source is not None:
        return is_present(data)
    uris = [uri for uri in (data.train, data.test) if uri]
    return all("://" not in uri and os.path.exists(os.path.dirname(uri) if "*" in uri else uri) for uri in uris)


def _small_model(spec: ModelSpec, plain: dict[str, Any], role: str, notes: list[str], known_classes: bool) -> None:
    if spec.weights is not None:
        here = not is_published(spec.model, spec.weights) and "://" not in spec.weights and exists_uri(spec.weights)
        if here and known_classes:
            return  # real weights fit the real width alone
        plain["weights"] = None
        notes.append(f"{role}: a random start stands in for the weights {spec.weights}")
    entry = find(spec.model)
    if entry is not None and "width" in entry.accepted and "width" not in spec.params:
        plain["params"] = {**plain.get("params", {}), "width": WIDTH}


def _small_images(plain: dict[str, Any]) -> None:
    """Scale the sizes in all transforms down to the smallest evaluation size that the networks still take."""
    data = plain["data"]
    whole = output_size(data.get("eval_transform", []), None)
    for size in SIZES:
        if whole is None or size >= whole:
            return
        small = {
            key: [_scaled(item, size / whole) for item in data.get(key, [])] for key in ("augment", "eval_transform")
        }
        if all(_takes(plain[role], size) for role in ("teacher", "student") if plain.get(role)):
            data |= small
            own = (plain.get("teacher") or {}).get("data") or {}
            if own.get("augment"):
                own["augment"] = [_scaled(item, size / whole) for item in own["augment"]]
            return


def _takes(model: dict[str, Any], size: int) -> bool:
    spec = ModelSpec(**{key: value for key, value in model.items() if key in ModelSpec.model_fields})
    if not is_foreign(spec.model):
        return True
    try:
        describe(spec, UNKNOWN_CLASSES, size)
    except ModelError:
        return False  # if no size will do, the plan says what is wrong
    return True


def _scaled(item: Any, factor: float) -> Any:
    if not isinstance(item, dict):
        return item
    ((name, params),) = item.items()
    params = dict(params or {})
    if isinstance(params.get("size"), int):
        params["size"] = max(1, round(params["size"] * factor))
    return {name: params}
