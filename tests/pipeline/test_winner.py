"""The winner of a search: an experiment of its own, and the artifact that its trial left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdray.data.dataset import open_dataset
from kdray.errors import StoreError
from kdray.experiment import Experiment, load_experiment
from kdray.experiment.changes import with_changes
from kdray.experiment.space_text import parse_space
from kdray.pipeline.stages import base_digests, draft_stages
from kdray.pipeline.winner import adopt, best_text, winner_of
from kdray.store import Store
from kdray.train.shares import Shares
from kdray.tune.slots import Slots
from kdray.tune.trials import Trial, new_trial
from tests.tiny import Lab

SPACE = parse_space(
    {
        "train.optimizer.weight_decay": "loguniform(0.0001, 0.01)",
        "method": {
            "kd": {"objectives.kd.weight": "uniform(0.1, 2)", "objectives.kd.temperature": [2, 4]},
            "rkd": {"objectives.kd": None, "objectives.rkd": {}, "objectives.rkd.angle": "uniform(5, 100)"},
        },
    }
)
SEARCH: dict[str, Any] = {
    "cluster": {"workers": 1},
    "teacher": {"train": {"epochs": 1, "batch": 32, "optimizer": {"lr": 0.1}}},
    "train": {"epochs": 4},
    "search": {"space": {"objectives.kd.weight": "uniform(0.1, 2)"}, "trials": 2},
}
THIRD = 0.1 + 0.2  # 0.30000000000000004: what YAML must give back to the last digit


def slots(experiment: Experiment, cpus: float = 0.75) -> Slots:
    return Slots(experiment.cluster, Shares(cpus, 0.0), 2)


def digests(experiment: Experiment) -> dict[str, str]:
    """Of each stage, by its kind."""
    dataset = open_dataset(experiment.data)
    drafts = draft_stages(experiment, True, lambda uri: uri)
    return dict(zip((draft.name for draft in drafts), base_digests(experiment, dataset, drafts), strict=True))


def of(parameters: dict[str, Any]) -> Trial:
    return new_trial(3, parameters, SPACE.changes(parameters))


def of_a_population() -> Trial:
    turns = [
        {
            "from_epoch": epoch,
            "parameters": {"objectives.kd.weight": weight},
            "changes": {"objectives.kd.weight": weight},
        }
        for epoch, weight in ((0, 1.0), (2, THIRD))
    ]
    return new_trial(3, turns[-1]["parameters"], turns[-1]["changes"]) | {"lineage": turns}


WINNERS = {
    "kd": of(
        {"train.optimizer.weight_decay": 1e-3 / 3, "method": "kd", "objectives.kd.weight": THIRD}
        | {"objectives.kd.temperature": 2}
    ),
    "rkd": of({"train.optimizer.weight_decay": 0.005, "method": "rkd", "objectives.rkd.angle": 50 / 7}),
    "population": of_a_population(),
}


@pytest.mark.parametrize("name", WINNERS)
def test_best_yaml_is_the_experiment_of_the_trial(lab: Lab, name: str, tmp_path: Path) -> None:
    experiment = load_experiment(lab.write(SEARCH))
    winner = winner_of(experiment, WINNERS[name], slots(experiment))
    path = tmp_path / "best.yaml"
    path.write_text(best_text(winner, "# a header\n# of two lines\n"))
    loaded = load_experiment(path)
    assert loaded.name == "tiny-best" and loaded.search is None
    assert path.read_text().startswith("# a header\n")
    plain = experiment.model_copy(update={"search": None})
    trial = WINNERS[name]
    made = with_changes(plain, trial["changes"]) if not trial["lineage"] else winner
    assert digests(loaded) == digests(winner) == digests(made)
    assert digests(loaded)["teacher"] == digests(experiment)["teacher"]
    assert digests(loaded)["student"] != digests(experiment)["student"]
    assert loaded.model_copy(update={"name": "tiny"}) == winner


def test_a_population_is_written_as_phases(lab: Lab) -> None:
    experiment = load_experiment(lab.write(SEARCH))
    winner = winner_of(experiment, WINNERS["population"], slots(experiment))
    assert winner.objectives["kd"]["weight"] == 1.0
    assert [(phase.from_epoch, phase.set) for phase in winner.phases or ()] == [(2, {"objectives.kd.weight": THIRD})]


def test_the_winner_has_the_cpus_of_its_trial(lab: Lab) -> None:
    experiment = load_experiment(lab.write(SEARCH))
    winner = winner_of(experiment, WINNERS["kd"], slots(experiment, 0.25))
    assert winner.cluster == experiment.cluster.model_copy(update={"cpus_per_worker": 0.25})


FILES = {"last.safetensors": b"weights", "best.safetensors": b"better", "history.csv": b"1,2"}


def whole(store: Store, folder: str, **record: Any) -> None:
    """An artifact as a trial leaves it."""
    for name, data in FILES.items():
        store.write_bytes(f"{folder}/{name}", data)
    store.write_bytes(f"{folder}/tensorboard/events.1", b"scalars")
    store.write_bytes(f"{folder}/checkpoints/step-000000002.pt", b"state")
    store.write_bytes(f"{folder}/ray-12-34/run/state.json", b"what a killed command of several workers left")
    store.write_json(f"{folder}/record.json", {"folder": folder, "top1": 0.5, **record})


def files(root: Path, folder: str) -> dict[str, bytes]:
    base = root / folder
    return {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}


def test_a_whole_artifact_is_adopted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    whole(store, "search/artifacts/00003")
    adopt(store, "search/artifacts/00003", "artifacts/student-1")
    found = files(tmp_path, "artifacts/student-1")
    record = json.loads(found.pop("record.json"))
    assert found == {**FILES, "tensorboard/events.1": b"scalars"}  # and no state that nobody goes on from
    assert record == {"folder": "artifacts/student-1", "top1": 0.5, "trial": "search/artifacts/00003"}
    assert len(files(tmp_path, "search/artifacts/00003")) == len(FILES) + 4  # the trial keeps its own


def test_one_that_is_there_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    whole(store, "trial")
    store.write_json("student/record.json", {"mine": True})
    adopt(store, "trial", "student")
    assert files(tmp_path, "student").keys() == {"record.json"}
    assert store.read_json("student/record.json") == {"mine": True}


def test_half_a_trial_is_not_adopted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    whole(store, "trial")
    store.delete("trial/record.json")
    adopt(store, "trial", "student")
    adopt(store, "nowhere", "student")
    assert not store.exists("student")


@pytest.mark.parametrize("at", range(len(FILES) + 2))
def test_a_copy_that_breaks_off_is_no_artifact(tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record, which makes it whole, comes last; the next command copies again."""
    store, written = Store(tmp_path), []
    whole(store, "trial")
    write = Store.write_bytes

    def breaking(self: Store, rel: str, data: Any) -> None:
        if len(written) == at:
            raise StoreError("is full")
        written.append(rel)
        write(self, rel, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_bytes", breaking)
        with pytest.raises(StoreError, match="is full"):
            adopt(store, "trial", "student")
    assert "student/record.json" not in written and len(written) == at
    adopt(store, "trial", "student")
    assert files(tmp_path, "student").keys() == {*FILES, "tensorboard/events.1", "record.json"}
