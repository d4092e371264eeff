"""What the trials of a search or a matrix train: their stages, and how a stage is run. Sent to every trial process."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kdray.data.dataset import Dataset, open_dataset
from kdray.data.shared import Sharing, install
from kdray.experiment import Cluster, Experiment
from kdray.experiment.changes import with_changes
from kdray.pipeline.checks import with_shares
from kdray.pipeline.stages import draft_stages, stage_spec
from kdray.store import Store
from kdray.train.checkpoint import FOLDER as CHECKPOINTS
from kdray.train.shares import Shares
from kdray.train.spec import StageSpec
from kdray.tune.trials import Goal, changes_of

if TYPE_CHECKING:
    from kdray.tune.process import TrialRun


@dataclass(frozen=True, kw_only=True)
class Work(ABC):
    """Trials of one kind: `shares` are the CPUs of each trial's workers, `goal` what they are judged by, `seen_by` the
    versions and the hardware that their records name.
    """

    goal: Goal
    cluster: Cluster
    shares: Shares
    seen_by: Mapping[str, Any]
    sharing: Sharing | None = None

    @property
    def in_process(self) -> bool:
        """Whether a trial trains in its own process, rather than on Ray Train workers."""
        return self.cluster.workers == 1

    @abstractmethod
    def stage(self, config: Mapping[str, Any]) -> StageSpec:
        """The stage of the trial of `config`.

        Raises:
            InputError: its parameters make no experiment.
        """

    def enter(self) -> AbstractContextManager[None]:
        """What holds in a process while it runs trials: resident images are one copy a node."""
        return install(self.sharing)

    def run(self, config: Mapping[str, Any], run: TrialRun) -> dict[str, Any]:
        """Train the stage of `config` from where it was left, and return its record; `run` listens."""
        stage = self.stage(config)
        store = Store(stage.store).sub(stage.folder)
        if store.exists("record.json"):  # the command was killed before it heard of the end
            return store.read_json("record.json")
        if stage.train is not None:
            run.max_epochs = stage.train.epochs
        stage = replace(stage, identity={**stage.identity, **self.seen_by})
        if self.in_process:
            from kdray.train.worker import StageWorker

            try:
                return StageWorker(with_shares(stage, self.shares, use_ray=True), run).run()
            finally:
                if self.sharing is not None:
                    self.sharing.leave()
        from kdray.train.trainer import run_on_ray

        return run_on_ray(with_shares(stage, self.shares, use_ray=True), self.cluster, self.shares, run)


@dataclass(frozen=True, kw_only=True)
class CellWork(Work):
    """The stages of a plan, one a trial."""

    stages: Sequence[StageSpec]

    def stage(self, config: Mapping[str, Any]) -> StageSpec:
        return self.stages[int(config["number"])]


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
