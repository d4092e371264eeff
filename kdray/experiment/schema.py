"""The typed experiment: every key that an experiment file knows, its type, its bounds and its default.

Defaults are part of the format: a digest leaves default-valued keys out, so a default that changes its meaning
needs a new key, not a new value. Checks that need data, models or a cluster stand in the rooms that know those.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kdray.experiment.balance_part import Balance
from kdray.experiment.bounds import BelowOne, Count, Mean, Natural, NonNegative, Positive, Std, Text, Unit, Uri
from kdray.experiment.data_part import Data
from kdray.experiment.freeform import Objectives, Parameters, Transforms
from kdray.experiment.mix_part import Mix, false_is_off, none_where_off
from kdray.experiment.part import OPERATIONAL, Part, both_or_none, refuse
from kdray.experiment.phases_part import Phase, check_phases
from kdray.experiment.search_part import Search
from kdray.experiment.train_part import Optimizer, Train


class ModelSpec(Part):
    """A model by name, with the builder's parameters. `stages` names the tapped modules of a foreign model.

    `weights` is a local path or URI; `pooled` names the module that gives the pooled features; `mean` and `std`
    override the data's normalisation for a model that was trained with another. `classifier: false` builds it without
    its last Linear: no logits, and nothing that needs them.
    """

    model: Text
    weights: Uri | None = None
    classifier: bool = True
    params: Parameters = Field(default_factory=dict)
    stages: Annotated[list[Text], Field(min_length=1)] | None = None
    pooled: Text | None = None
    mean: Mean | None = None
    std: Std | None = None

    @model_validator(mode="after")
    def _normalisation(self) -> ModelSpec:
        both_or_none(self)
        return self


def _cross_entropy() -> dict[str, dict[str, Any]]:
    return {"ce": {}}


class TeacherData(Part):
    """What a teacher is pretrained on unlike the student, laid over the experiment's `data`; None is as there.

    `mix: false` mixes nothing.
    """

    views: Count | None = None
    augment: Transforms | None = None
    mix: Annotated[Mix | None, BeforeValidator(false_is_off)] = None


class Teacher(ModelSpec):
    """The teacher: `weights`, or pretrained with its own `objectives` and `train` (None = the experiment's `train`).

    In a file `train` holds only what differs: it is merged over the experiment's before it is checked. `data` is what
    its own training, and no other stage, does to the images. `seed` is that of its own training (None = the
    experiment's): what lets students of several seeds have one teacher.
    """

    seed: Natural | None = None
    objectives: Objectives = Field(default_factory=_cross_entropy)
    train: Train | None = None
    data: TeacherData = Field(default_factory=TeacherData)
    min_accuracy: Unit | None = Field(default=None, json_schema_extra=OPERATIONAL)

    @model_validator(mode="after")
    def _has_objectives(self) -> Teacher:
        if not self.objectives:
            raise refuse("names no objective", "Write {ce: {weight: 1}}, or leave the key out", ("objectives",))
        if not self.classifier and self.min_accuracy is not None:
            problem = f"a floor of {self.min_accuracy:g} means nothing without a classifier: there is no accuracy"
            raise refuse(problem, "Remove it, or write classifier: true", ("min_accuracy",))
        return self


class Student(ModelSpec):
    """The student. `alone` also trains the same student with cross-entropy only, as the comparison."""

    alone: bool = Field(default=False, json_schema_extra=OPERATIONAL)

    @model_validator(mode="after")
    def _can_be_alone(self) -> Student:
        if self.alone and not self.classifier:
            problem = "alone means cross-entropy, which needs a classifier"
            raise refuse(problem, "Write alone: false, or classifier: true", ("alone",))
        return self


class Cluster(Part):
    """What a run asks of the cluster. `workers: 0` is one process without Ray.

    `gpus_per_worker` None takes one for each worker where the cluster has that many, else none.
    """

    workers: Natural = 1
    gpus_per_worker: NonNegative | None = None
    cpus_per_worker: Positive | None = None
    data_cpus: NonNegative | None = None
    address: Text | None = None
    max_failures: Natural = 3
    device: Literal["auto", "cpu", "cuda"] = "auto"


class LinearProbe(Part):
    """A linear classifier on the frozen network's pooled features, trained by SGD with a cosine on `limit` training
    images (evenly spaced; None = all). `batch` is over all workers, `lr` for features of mean 0 and length about 1."""

    epochs: Count = 50
    batch: Count = 256
    lr: Positive = 3.0
    momentum: BelowOne = 0.9
    weight_decay: NonNegative = 0.0
    limit: Count | None = None


def _yes_is_default(probe: Any) -> Any:
    if isinstance(probe, bool):
        return {} if probe else None
    return probe


class Evaluate(Part):
    """How finished models are evaluated on test. `batch` is per worker and changes no number.

    `precision` is fp32 by default, whatever the training's: published accuracies are of float32 networks.
    `linear_probe: true` also measures their features, with the options' defaults.
    """

    batch: Count = Field(default=256, json_schema_extra=OPERATIONAL)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    linear_probe: Annotated[LinearProbe | None, BeforeValidator(_yes_is_default)] = None


def _evaluation_only() -> Train:
    # Stands in where nothing is trained; an experiment that trains must write its own (checked below).
    return Train(epochs=1, batch=64, optimizer=Optimizer(lr=0.05))


class Experiment(Part):
    """One experiment, complete: what `load_experiment` returns and every other room reads."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = Field(
        default="experiment", json_schema_extra=OPERATIONAL
    )
    seed: Natural = 0
    data: Data
    teacher: Teacher | None = None
    student: Student | None = None
    objectives: Objectives = Field(default_factory=dict)
    balance: Balance | None = None
    train: Train = Field(default_factory=_evaluation_only)
    phases: list[Phase] = Field(default_factory=list)
    cluster: Cluster = Field(default_factory=Cluster, json_schema_extra=OPERATIONAL)
    storage: Uri = Field(default="runs", json_schema_extra=OPERATIONAL)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    search: Search | None = Field(default=None, json_schema_extra=OPERATIONAL)

    @model_validator(mode="after")
    def _whole(self) -> Experiment:
        if self.teacher is None and self.student is None:
            fix = "Give teacher: {model: NAME} to train or evaluate one, student: {model: NAME} to train one, or both"
            raise refuse("names neither a teacher nor a student", fix)
        if self.student is not None and not self.objectives:
            raise refuse("a student needs objectives", "Write objectives: {ce: {weight: 1}}", ("objectives",))
        if self.student is None and self.balance is not None:
            raise refuse("is of a student's objectives, and there is no student", "Remove it", ("balance",))
        own = self.teacher is not None and (self.teacher.weights is not None or self.teacher.train is not None)
        if "train" not in self.model_fields_set and (self.student is not None or not own):
            fix = "Write train: {epochs: 100, batch: 64, optimizer: {type: sgd, lr: 0.05}} with the recipe's numbers"
            raise refuse("is missing, but the experiment trains a model", fix, ("train",))
        if self.phases and self.student is None:
            raise refuse("phases are a student's, and there is none", "Give student:, or remove them", ("phases",))
        if self.phases and self.balance is not None:
            problem = "phases set weights between epochs, and balance sets them before the first"
            raise refuse(problem, "Write the balanced weights down, and remove balance:", ("balance",))
        check_phases(self.phases, self.objectives, self.train)
        self._batch_divides(self.train, ("train",))
        if self.teacher is not None and self.teacher.train is not None:
            self._batch_divides(self.teacher.train, ("teacher", "train"))
        if self.student is not None and self.data.mix is not None:
            self._batch_pairs(self.train, ("train",))
        if self.teacher is not None and self.teacher.weights is None and self.teacher_data.mix is not None:
            own = self.teacher.train is not None
            self._batch_pairs(self.teacher.train or self.train, ("teacher", "train") if own else ("train",))
        if self.search is not None:
            self._has_the_metric(self.search)
        return self

    @property
    def teacher_data(self) -> Data:
        """`data` as the teacher is pretrained on it."""
        own = self.teacher.data if self.teacher is not None else TeacherData()
        given = {key: value for key, value in own if value is not None}
        if own.mix is not None:
            given["mix"] = none_where_off(own.mix)
        return self.data.model_copy(update=given)

    def _batch_divides(self, train: Train, at: tuple[str, ...]) -> None:
        workers = max(self.cluster.workers, 1)
        parts = workers * train.accumulate
        if train.batch % parts:
            below, above = train.batch // parts * parts, -(-train.batch // parts) * parts
            problem = (
                f"batch {train.batch} cannot be split over {workers} workers x {train.accumulate} accumulated steps"
            )
            fix = f"Give a multiple of {parts}: {f'{below} or ' if below else ''}{above}"
            raise refuse(problem, fix, (*at, "batch"))

    def _batch_pairs(self, train: Train, at: tuple[str, ...]) -> None:
        workers = max(self.cluster.workers, 1)
        share = train.batch // workers
        if share % 2:
            problem = f"images are mixed in pairs, and a batch of {train.batch} is {share} of each of {workers} workers"
            above = -(-train.batch // (16 * workers)) * 16 * workers
            raise refuse(problem, f"Give a multiple of {16 * workers}, such as {above}", (*at, "batch"))

    def _has_the_metric(self, search: Search) -> None:
        if not search.metric.startswith("val/"):
            return
        if self.data.validation == 0:
            fix = "Set data.validation above 0, or search by loss/total: test takes part in no choice"
            raise refuse(f"{search.metric} needs validation images, and there are none", fix, ("search", "metric"))
        if search.scheduler.type != "none" and self.train.eval_every != 1:
            problem = (
                f"{search.scheduler.type} compares {search.metric} of every epoch, and it is not measured at every one"
            )
            raise refuse(problem, "Set train.eval_every to 1, or scheduler: none", ("search", "scheduler"))
