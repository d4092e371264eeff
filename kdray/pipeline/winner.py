"""The winner of a search as a plain experiment, and its trial's artifact as that of a stage."""

from __future__ import annotations

from kdray.experiment import Experiment
from kdray.experiment.changes import with_changes
from kdray.experiment.yaml_text import dump
from kdray.store import Store
from kdray.train.board import FOLDER as BOARD
from kdray.train.checkpoint import FOLDER as CHECKPOINTS
from kdray.train.trainer import RAY_FOLDER
from kdray.tune.slots import Slots
from kdray.tune.trials import Trial, changes_of


def winner_of(experiment: Experiment, trial: Trial, slots: Slots) -> Experiment:
    """The experiment that trains the winner alone, with as many CPUs as it had: with others the sums of floats, and so
    the last digits, differ."""
    plain = experiment.model_copy(update={"search": None})
    best = with_changes(plain, changes_of(trial))
    threads = (trial.get("ran") or {}).get("threads")
    on_gpu = bool(slots.cluster.gpus_per_worker)
    cpus = slots.shares.worker_cpus if threads is None or on_gpu or slots.shares.worker_cpus < 1 else float(threads)
    cluster = best.cluster.model_copy(update={"cpus_per_worker": cpus})
    return best.model_copy(update={"cluster": cluster})


def adopt(store: Store, trial_folder: str, folder: str) -> None:
    """Make the whole artifact of a trial that of the stage in `folder`; one that is there already stays."""
    if store.exists(f"{folder}/record.json") or not store.exists(f"{trial_folder}/record.json"):
        return
    _copy(store, trial_folder, folder)
    record = store.read_json(f"{trial_folder}/record.json")
    store.write_json(f"{folder}/record.json", record | {"folder": folder, "trial": trial_folder})


def _copy(store: Store, source: str, target: str) -> None:
    """Copy an artifact but for what makes it whole and what only a training that goes on needs."""
    for name in store.list(source):
        name = name.rstrip("/")
        if name == BOARD:
            _copy(store, f"{source}/{name}", f"{target}/{name}")
        elif name not in ("record.json", CHECKPOINTS) and not name.startswith(RAY_FOLDER):
            store.write_bytes(f"{target}/{name}", store.read_bytes(f"{source}/{name}"))


def best_text(winner: Experiment, header: str) -> str:
    """best.yaml: the winner's experiment, under a header that says where it comes from."""
    named = winner.model_copy(update={"name": f"{winner.name}-best"})
    plain = named.model_dump(mode="json", exclude_unset=True, exclude={"search"})
    if winner.teacher is not None and winner.teacher.train is not None:
        # Whole: what is left out would be taken from `train`, which the search may have changed.
        plain["teacher"]["train"] = winner.teacher.train.model_dump(mode="json")
    return header + dump(plain)
