"""From an experiment to a checked plan: what will run, what is done already, and what it will take.

A dry run makes the same plan without leaving anything behind, and where it cannot reach the data, the weights or the
store (a cluster's, seen from a laptop) it plans from what the experiment declares and says what it did not check.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from kdray.data.dataset import Dataset, open_dataset
from kdray.data.feed import will_stream
from kdray.data.sources import is_packed
from kdray.errors import DataError, InputError, StoreError
from kdray.experiment import Experiment
from kdray.pipeline.checks import (
    check_data,
    check_devices,
    check_floor_can_be_known,
    check_memory,
    check_stage,
    check_storage,
    local_shares,
)
from kdray.pipeline.declared import declared_dataset, lies_elsewhere
from kdray.pipeline.estimate import Estimate, estimate
from kdray.pipeline.naming import named
from kdray.pipeline.shelf import Shelf
from kdray.pipeline.smoke import StandIn
from kdray.pipeline.stages import Draft, Stage, draft_stages, file_digest, place_stages, run_digest
from kdray.store import Store
from kdray.train.cluster import Shares


@dataclass(frozen=True)
class Plan:
    """A checked experiment, ready to run.

    `earlier` is the record that this run left before, if it did. `shares` are known for this machine only.
    `not_checked` says what a dry run could not reach; `exact` is False when digests are therefore not a run's.
    """

    experiment: Experiment
    run_id: str
    digest: str
    dataset: Dataset
    stages: list[tuple[Stage, Estimate]]
    stream: bool
    shares: Shares | None = None
    fresh: bool = False
    earlier: dict[str, Any] | None = None
    not_checked: list[str] = field(default_factory=list)
    exact: bool = True


def make_plan(
    experiment: Experiment,
    *,
    fresh: bool = False,
    dry: bool = False,
    run_id: str | None = None,
    stand_in: StandIn | None = None,
) -> Plan:
    """Check `experiment` against its data, models, storage and this machine, and plan its stages.

    Raises:
        InputError: the first thing that cannot work.
    """
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="kdray-dry-run-")) if dry else None
        if stand_in is not None:
            experiment = stand_in.lay(experiment, scratch)
        return _Planning(experiment, scratch).plan(fresh, run_id)


class _Planning:
    def __init__(self, experiment: Experiment, scratch: str | None) -> None:
        self.experiment = experiment
        self.scratch = scratch
        self.dry = scratch is not None
        self.not_checked: list[str] = []
        self.unread: set[str] = set()
        self.exact = True
        self.for_another = False  # the experiment is for a machine with GPUs, which this one is not

    def plan(self, fresh: bool, run_id: str | None) -> Plan:
        experiment = self.experiment
        check_data(experiment)
        dataset = self._dataset()
        self._devices()
        judged = dataset.test is not None or dataset.validation is not None
        drafts = draft_stages(experiment, judged, self._digest_weights)
        digest = run_digest(experiment, dataset, drafts)
        with named("storage"):
            shelf = Shelf(Store(experiment.storage), lenient=self.dry and "://" in experiment.storage)
            if run_id is None:
                run_id = shelf.run_id(experiment.name, digest, fresh)
            else:
                shelf.check_run_id(run_id, digest, fresh)
            earlier = shelf.record(run_id)
        planned: Mapping[str, str] = (earlier or {}).get("planned", {})
        sized = self._sized(dataset, drafts, shelf, planned, fresh)
        splits = [split for split in (dataset.train, dataset.validation, dataset.test) if split is not None]
        stream = any(will_stream(experiment.data, split.manifest, len(split)) for split in splits)
        shares = self._shares(stream)
        check_memory(experiment, sized)
        if shelf.problem is not None:
            self._note("storage", shelf.problem)
        else:
            with named("storage"):
                check_storage(experiment, sized)
        return Plan(
            experiment=experiment,
            run_id=run_id,
            digest=digest,
            dataset=dataset,
            stages=sized,
            stream=stream,
            shares=shares,
            fresh=fresh,
            earlier=earlier,
            not_checked=self.not_checked,
            exact=self.exact,
        )

    def _note(self, what: str, error: InputError) -> None:
        self.not_checked.append(f"{what}: {error}")

    def _sized(
        self, dataset: Dataset, drafts: list[Draft], shelf: Shelf, planned: Mapping[str, str], fresh: bool
    ) -> list[tuple[Stage, Estimate]]:
        check_floor_can_be_known(self.experiment, dataset)
        stages = place_stages(self.experiment, dataset, drafts, shelf, planned, fresh)
        world = max(1, self.experiment.cluster.workers)
        sized = [(stage, estimate(stage.spec, world)) for stage in stages]
        for stage, sizes in sized:
            check_stage(self.experiment, stage, sizes, self.unread)
        return sized

    def _dataset(self) -> Dataset:
        data = self.experiment.data
        if self.dry and data.source is not None and not is_packed(data):
            if data.source == "digits":
                return self._scratch_digits()
            declared = declared_dataset(data)
            if declared is not None:
                self.exact = False
                self.not_checked.append(
                    f"data: {data.source} is not packed yet; the first run packs it from its archive in data.root, "
                    "or fetches that"
                )
                return declared
        try:
            return open_dataset(data)
        except (DataError, StoreError) as error:
            if not (self.dry and lies_elsewhere(data, error)):
                raise
            declared = declared_dataset(data)
            if declared is None:
                hint = "With data.classes, data.samples and a data.eval_transform a dry run plans without it"
                fix = f"{error.fix}. {hint}" if error.fix else hint
                raise type(error)(error.problem, where=error.where, fix=fix) from error
            self.exact = False
            self._note("data", error)
            return declared

    def _scratch_digits(self) -> Dataset:
        """Pack them for this dry run alone: they come with scikit-learn and take no time."""
        try:
            return open_dataset(self.experiment.data.model_copy(update={"root": self.scratch}))
        except (DataError, StoreError) as error:
            where = (error.where or "").replace(f"{self.scratch}/", "")
            raise type(error)(error.problem, where=where, fix=error.fix) from error

    def _devices(self) -> None:
        """GPUs that this machine lacks stop a run; a dry run of a cluster's experiment is told."""
        try:
            check_devices(self.experiment.cluster)
        except InputError as error:
            if not self.dry:
                raise
            self.for_another = True
            self._note("devices", error)

    def _shares(self, stream: bool) -> Shares | None:
        try:
            return local_shares(self.experiment, stream)
        except InputError as error:
            if not self.for_another:
                raise
            self._note("CPUs", error)
            return None

    def _digest_weights(self, uri: str) -> str:
        try:
            return file_digest(uri)
        except StoreError as error:
            if not (self.dry and "://" in uri):
                raise
            self.exact = False
            self.unread.add(uri)
            self._note("weights", error)
            return f"unread {uri}"
