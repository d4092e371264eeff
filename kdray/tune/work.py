"""What the trials of a search or a matrix train: their stages, and how a stage is run. Sent to every trial process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kdray.data.shared import Sharing, install
from kdray.experiment import Cluster
from kdray.store import Store
from kdray.train.shares import Shares
from kdray.train.spec import StageSpec
from kdray.tune.trials import Goal

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
        run.store = store = Store(stage.store).sub(stage.folder)
        if store.exists("record.json"):  # the command was killed before it heard of the end
            return store.read_json("record.json")
        if stage.train is not None:
            run.max_epochs = stage.train.epochs
        identity = {**stage.identity, **self.seen_by}
        stage = replace(stage, identity=identity, use_ray=True, data_cpus=self.shares.data_cpus)
        if self.in_process:
            from kdray.train.worker import StageWorker

            try:
                return StageWorker(stage, run).run()
            finally:
                if self.sharing is not None:
                    self.sharing.leave()
        from kdray.train.trainer import run_on_ray

        return run_on_ray(stage, self.cluster, self.shares, run)


@dataclass(frozen=True, kw_only=True)
class CellWork(Work):
    """The stages of a plan, one a trial."""

    stages: Sequence[StageSpec]

    def stage(self, config: Mapping[str, Any]) -> StageSpec:
        return self.stages[int(config["number"])]
