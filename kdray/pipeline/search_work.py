"""What the trials of a search train: one experiment, with other parameters in each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kdray.data.dataset import Dataset, open_dataset
from kdray.experiment import Experiment
from kdray.experiment.changes import with_changes
from kdray.pipeline.stages import draft_stages, stage_spec
from kdray.store import Store
from kdray.train.checkpoint import FOLDER as CHECKPOINTS
from kdray.train.spec import StageSpec
from kdray.tune.trials import changes_of
from kdray.tune.work import Work


@dataclass(frozen=True, kw_only=True)
class SearchWork(Work):
    """One experiment with other parameters in every trial.

    `kind` is the stage that is searched. `taught` is the folder of the teacher that an earlier stage left, `weights`
    are digests of given weights by URI. Trial artifacts lie below `folder` of `store`.
    """

    experiment: Experiment
    dataset: Dataset
    kind: str
    taught: str | None
    weights: Mapping[str, str]
    judged: bool
    store: str
    folder: str

    def stage(self, config: Mapping[str, Any]) -> StageSpec:
        trial = {"changes": json.loads(config["changes"]), "lineage": json.loads(config.get("lineage", "[]"))}
        experiment = with_changes(self.experiment, changes_of(trial))
        dataset = self.dataset if experiment.data == self.experiment.data else open_dataset(experiment.data)
        drafts = draft_stages(experiment, self.judged, self.weights.__getitem__)
        draft = next(each for each in drafts if each.name == self.kind)
        spec = stage_spec(
            experiment, dataset, draft, self.taught, Store(self.store), self.artifact(int(config["number"]))
        )
        assert spec.train is not None
        keeping = spec.train.checkpoint.model_copy(update={"every_epochs": 1})
        return replace(spec, train=spec.train.model_copy(update={"checkpoint": keeping}))

    def artifact(self, number: int) -> str:
        """The folder of trial `number`."""
        return f"{self.folder}/artifacts/{number:05d}"

    def forget_checkpoints(self, number: int) -> None:
        """Remove the state of a trial that nobody will go on with."""
        Store(self.store).delete(f"{self.artifact(number)}/{CHECKPOINTS}")
