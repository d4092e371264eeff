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
from kdray.data.sources import is_packed
from kdray.errors import DataError, InputError, StoreError
from kdray.experiment import Comparison, Data, Experiment
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
from kdray.pipeline.members import Member, members_of, place_stages, run_digest, searched_digest
from kdray.pipeline.naming import in_variant, named
from kdray.pipeline.packing import Goal, goals, listed, unpacked
from kdray.pipeline.search_checks import Opened, check_search
from kdray.pipeline.shelf import Shelf
from kdray.pipeline.smoke import StandIn
from kdray.pipeline.stages import Stage, file_digest
from kdray.pipeline.streams import any_streams, how_kept
from kdray.store import Store
from kdray.train.shares import Shares


@dataclass(frozen=True)
class Plan:
    """A checked experiment, or a comparison of several, ready to run.

    `kept` says of each member's images, in words, whether they are streamed: a dry run's data may be gone when that is
    read. `earlier` is the record that this run left before, if it did. `shares` are known for this machine only.
    `weights` are digests of given weights by URI. `not_checked` says what a dry run could not reach; `exact` is False
    when digests are therefore not a run's.
    """

    comparison: Comparison
    run_id: str
    digest: str
    members: list[Member]
    stages: list[tuple[Stage, Estimate]]
    stream: bool
    kept: list[str]
    shares: Shares | None = None
    fresh: bool = False
    earlier: dict[str, Any] | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    not_checked: list[str] = field(default_factory=list)
    exact: bool = True


def make_plan(
    experiment: Experiment | Comparison,
    *,
    fresh: bool = False,
    dry: bool = False,
    run_id: str | None = None,
    stand_ins: Mapping[str, StandIn] | None = None,
) -> Plan:
    """Check `experiment` against its data, models, storage and this machine, and plan its stages.

    `stand_ins` are for the data of the experiments of these names.

    Raises:
        InputError: the first thing that cannot work.
    """
    comparison = experiment if isinstance(experiment, Comparison) else Comparison.of(experiment)
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="kdray-dry-run-")) if dry else None
        if stand_ins:
            laid = {name: stand_in.lay(comparison.experiments[name], scratch) for name, stand_in in stand_ins.items()}
            comparison = comparison.with_experiments({**comparison.experiments, **laid})
        return _Planning(comparison, scratch).plan(fresh, run_id)


class _Planning:
    def __init__(self, comparison: Comparison, scratch: str | None) -> None:
        self.comparison = comparison
        self.scratch = scratch
        self.dry = scratch is not None
        self.not_checked: list[str] = []
        self.unread: set[str] = set()
        self.exact = True
        self.for_another = False  # the experiment is for a machine with GPUs, which this one is not
        self.datasets: dict[str, Dataset] = {}
        self.weights: dict[str, str] = {}

    def plan(self, fresh: bool, run_id: str | None) -> Plan:
        comparison = self.comparison
        members = members_of(comparison, self._open, self._digest_weights)
        self._devices()
        check_search(comparison.first, Opened(self._open, self._digest_weights, self.dry))
        digest = searched_digest(comparison, run_digest(members))
        with named("storage"):
            shelf = Shelf(Store(comparison.storage), lenient=self.dry and "://" in comparison.storage)
            if run_id is None:
                run_id = shelf.run_id(comparison.name, digest, fresh)
            else:
                shelf.check_run_id(run_id, digest, fresh)
            earlier = shelf.record(run_id)
        planned: Mapping[str, str] = (earlier or {}).get("planned", {})
        sized = self._sized(members, shelf, planned, fresh)
        stream = any_streams(members)
        shares = self._shares(stream)
        if shelf.problem is not None:
            self._note("storage", shelf.problem)
        else:
            with named("storage"):
                check_storage(comparison.storage, sized)
        return Plan(
            comparison=comparison,
            run_id=run_id,
            digest=digest,
            members=members,
            stages=sized,
            stream=stream,
            kept=[how_kept(member) for member in members],
            shares=shares,
            fresh=fresh,
            earlier=earlier,
            weights=self.weights,
            not_checked=self.not_checked,
            exact=self.exact,
        )

    def _note(self, what: str, error: InputError) -> None:
        line = f"{what}: {error}"
        if line not in self.not_checked:  # several variants may have the same data
            self.not_checked.append(line)

    def _sized(
        self, members: list[Member], shelf: Shelf, planned: Mapping[str, str], fresh: bool
    ) -> list[tuple[Stage, Estimate]]:
        for member in members:
            with in_variant(self.comparison, member.variant):
                check_floor_can_be_known(member.experiment, member.dataset)
        world = max(1, self.comparison.cluster.workers)
        experiments = {member.variant: member.experiment for member in members}
        sized = []
        for stage in place_stages(members, shelf, planned, fresh):
            with in_variant(self.comparison, stage.variant):
                sizes = estimate(stage.spec, world)
                check_stage(experiments[stage.variant], stage, sizes, self.unread)
                check_memory(self.comparison.cluster, stage, sizes)
            sized.append((stage, sizes))
        return sized

    def _open(self, experiment: Experiment) -> Dataset:
        """The data of `experiment`, opened once for all that have the same."""
        check_data(experiment)
        key = experiment.data.model_dump_json()
        if key not in self.datasets:
            self.datasets[key] = self._dataset(experiment.data)
        return self.datasets[key]

    def _dataset(self, data: Data) -> Dataset:
        if self.dry and data.source is not None and not is_packed(data):
            if data.source == "digits":
                return self._scratch_digits(data)
            declared = declared_dataset(data)
            if declared is not None:
                self.exact = False
                self.not_checked.append(
                    f"data: {data.source} is not packed yet; the first run packs it from its archive in data.root, "
                    "or fetches that"
                )
                return declared
        if self.dry and (to_pack := self._unpacked(data)):
            return self._to_be_packed(data, to_pack)
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

    def _unpacked(self, data: Data) -> list[Goal]:
        try:
            waiting = unpacked(data)
            notes = [note for goal in goals(data) if goal not in waiting for note in goal.notes()]
        except StoreError as error:
            if not lies_elsewhere(data, error):
                raise
            return []  # what cannot be seen from here is planned from what is declared of it
        self.not_checked += [note for note in notes if note not in self.not_checked]
        return waiting

    def _to_be_packed(self, data: Data, to_pack: list[Goal]) -> Dataset:
        """A stand-in for shards that the run would make, of the size that a look at their sources tells."""
        try:
            sizes = listed(to_pack)
        except InputError as error:
            declared = declared_dataset(data) if "://" in (error.where or "") else None
            if declared is None:
                raise
            self._note("data.pack", error)
        else:
            train = sizes.get("train")
            if train is not None:
                data = data.model_copy(update={"samples": train.images, "classes": data.classes or train.classes})
            declared = declared_dataset(data)
            if declared is None:
                fix = "Run it, or name the size: eval_transform: [{resize: {size: 256}}, {center_crop: {size: 224}}]"
                raise DataError(
                    "a dry run cannot know the size of images that are not packed yet", where="data", fix=fix
                )
            said = ", ".join(f"{split} {size.images} images, {size.classes} classes" for split, size in sizes.items())
            self.not_checked.append(f"data: not packed yet; the first run packs {said}")
        self.exact = False
        return declared

    def _scratch_digits(self, data: Data) -> Dataset:
        """Pack them for this dry run alone: they come with scikit-learn and take no time."""
        try:
            return open_dataset(data.model_copy(update={"root": self.scratch}))
        except (DataError, StoreError) as error:
            where = (error.where or "").replace(f"{self.scratch}/", "")
            raise type(error)(error.problem, where=where, fix=error.fix) from error

    def _devices(self) -> None:
        """GPUs that this machine lacks stop a run; a dry run of a cluster's experiment is told."""
        try:
            check_devices(self.comparison.cluster)
        except InputError as error:
            if not self.dry:
                raise
            self.for_another = True
            self._note("devices", error)

    def _shares(self, stream: bool) -> Shares | None:
        try:
            return local_shares(self.comparison.cluster, stream)
        except InputError as error:
            if not self.for_another:
                raise
            self._note("CPUs", error)
            return None

    def _digest_weights(self, uri: str) -> str:
        if uri not in self.weights:
            self.weights[uri] = self._read_weights(uri)
        return self.weights[uri]

    def _read_weights(self, uri: str) -> str:
        try:
            return file_digest(uri)
        except StoreError as error:
            if not (self.dry and "://" in uri):
                raise
            self.exact = False
            self.unread.add(uri)
            self._note("weights", error)
            return f"unread {uri}"
