"""The typed experiment: every key that an experiment file knows, its type, its bounds and its default.

Defaults are part of the format: a digest leaves default-valued keys out, so a default that changes its meaning
needs a new key, not a new value. Checks that need data, models or a cluster stand in the rooms that know those.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kdray.experiment.bounds import BelowOne, Betas, Count, Mean, Natural, NonNegative, Positive, Std, Text, Unit
from kdray.experiment.freeform import Objectives, Parameters, Transforms
from kdray.experiment.part import OPERATIONAL, Part, refuse


def _shards_is_none(source: str | None) -> str | None:
    return None if source == "shards" else source  # one meaning, one digest


class Columns(Part):
    """Names of the Parquet columns. Without `id`, a sample is known by its shard and row."""

    image: Text = "image"
    label: Text = "label"
    id: Text | None = None


class LabelNoise(Part):
    """Wrong labels on `fraction` of the training rows, drawn from `seed` and the sample ids.

    permute exchanges the labels of these rows among themselves; uniform gives another class at random, pair the next.
    """

    fraction: Unit
    type: Literal["permute", "uniform", "pair"] = "permute"
    seed: Natural = 0


def _none_where_zero(noise: LabelNoise | None) -> LabelNoise | None:
    return noise if noise is not None and noise.fraction else None  # one meaning, one digest


class Data(Part):
    """Where the samples lie, how they are read, and what is done to their pixels.

    `source` None (or shards, the same) means shards at the `train` and `test` URIs. `validation` is the fraction of
    train held out by a hash of the sample id; of what is left, training takes `fraction` of every class, by a hash of
    the sample id and `fraction_seed`, and may be given wrong labels by `label_noise`. `limit` keeps the first rows of
    train and of validation, `test_limit` of test. `mean` and `std` are per RGB channel, of pixels in 0..1. `samples`
    declares the train size for a plan made where the data cannot be reached.
    """

    source: Annotated[Literal["digits", "cifar10", "cifar100", "shards"] | None, AfterValidator(_shards_is_none)] = None
    train: Text | None = None
    test: Text | None = None
    root: Text | None = Field(default=None, json_schema_extra=OPERATIONAL)
    columns: Columns = Field(default_factory=Columns)
    classes: Count | None = None
    samples: Count | None = Field(default=None, json_schema_extra=OPERATIONAL)
    mode: Literal["auto", "stream", "resident"] = Field(default="auto", json_schema_extra=OPERATIONAL)
    resident_limit_bytes: Natural = Field(default=2 * 1024**3, json_schema_extra=OPERATIONAL)
    augment: Transforms = Field(default_factory=list)
    eval_transform: Transforms = Field(default_factory=list)
    views: Count = 1
    validation: BelowOne = 0.1
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    fraction_seed: Natural = 0
    label_noise: Annotated[LabelNoise | None, AfterValidator(_none_where_zero)] = None
    limit: Count | None = None
    test_limit: Count | None = None
    mean: Mean | None = None
    std: Std | None = None
    shuffle_window_bytes: Count = 256 * 1024**2
    max_bad_fraction: Unit = Field(default=0.001, json_schema_extra=OPERATIONAL)

    @model_validator(mode="after")
    def _one_origin(self) -> Data:
        packed = self.source is not None
        if not packed and self.train is None:
            fix = "Give source: digits, cifar10 or cifar100, or train: the folder or URI of Parquet shards"
            at = ("source",) if "source" in self.model_fields_set else ()
            raise refuse("names no training data", fix, at)
        for key in ("train", "test"):
            if packed and getattr(self, key) is not None:
                problem = f"source {self.source} brings its own {key} set, so {getattr(self, key)} would do nothing"
                raise refuse(problem, f"Remove {key}, or write source: shards", (key,))
        _both_or_none(self)
        return self


class Optimizer(Part):
    """Optimizer of one training. `momentum` and `nesterov` belong to sgd, `betas` to adamw."""

    type: Literal["sgd", "adamw"] = "sgd"
    lr: Positive
    momentum: BelowOne = 0.9
    nesterov: bool = False
    betas: Betas = (0.9, 0.999)
    weight_decay: NonNegative = 5e-4
    decay_norm_and_bias: bool = True

    @model_validator(mode="after")
    def _keys_of_the_type(self) -> Optimizer:
        _only_for(self, {"momentum": ("sgd",), "nesterov": ("sgd",), "betas": ("adamw",)})
        if self.nesterov and self.momentum == 0:
            raise refuse("nesterov needs momentum", "Give momentum above 0, or nesterov: false", ("nesterov",), True)
        return self


class Schedule(Part):
    """Learning rate over the run. `milestones` (epochs) and `gamma` belong to multistep; `warmup_epochs` ramps up."""

    type: Literal["constant", "multistep", "cosine", "onecycle"] = "constant"
    milestones: list[Count] = Field(default_factory=list)
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: NonNegative = 0.0
    min_lr: NonNegative = 0.0

    @model_validator(mode="after")
    def _keys_of_the_type(self) -> Schedule:
        _only_for(self, {"milestones": ("multistep",), "gamma": ("multistep",)})
        if self.type == "multistep" and not self.milestones:
            raise refuse("multistep needs milestones", "Give the epochs of the drops: [150, 180, 210]", ("milestones",))
        for i in range(1, len(self.milestones)):
            if self.milestones[i] <= self.milestones[i - 1]:
                problem = f"milestones must increase, but {self.milestones[i - 1]} comes before {self.milestones[i]}"
                raise refuse(problem, "Sort them and name each epoch once", ("milestones",))
        return self


class LrRule(Part):
    """How `lr` follows the batch: times (batch / base_batch) when linear, times its root when sqrt, or not at all."""

    type: Literal["none", "linear", "sqrt"] = "none"
    base_batch: Count = 256

    @model_validator(mode="after")
    def _keys_of_the_type(self) -> LrRule:
        _only_for(self, {"base_batch": ("linear", "sqrt")})
        return self


class Checkpointing(Part):
    """When the state of a run is saved, and how many saved states are kept."""

    every_steps: Count | None = Field(default=None, json_schema_extra=OPERATIONAL)
    every_minutes: Positive | None = Field(default=10.0, json_schema_extra=OPERATIONAL)
    keep: Count = Field(default=2, json_schema_extra=OPERATIONAL)


class Train(Part):
    """One training: `batch` is global (over all workers and accumulated steps), `eval_every` counts epochs, 0 = end."""

    epochs: Count
    batch: Count
    optimizer: Optimizer
    schedule: Schedule = Field(default_factory=Schedule)
    lr_rule: LrRule = Field(default_factory=LrRule)
    clip_norm: Positive | None = None
    accumulate: Count = 1
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: bool = False
    log_every: Count = Field(default=50, json_schema_extra=OPERATIONAL)
    checkpoint: Checkpointing = Field(default_factory=Checkpointing)
    eval_every: Natural = 1
    divergence_factor: Annotated[float, Field(gt=1)] | None = Field(default=50.0, json_schema_extra=OPERATIONAL)

    @model_validator(mode="after")
    def _fits_the_epochs(self) -> Train:
        last = self.schedule.milestones[-1] if self.schedule.milestones else 0
        if last >= self.epochs:
            problem = f"milestone {last} is never reached in {self.epochs} epochs"
            fix = "Give milestones below train.epochs, or more epochs"
            raise refuse(problem, fix, ("schedule", "milestones"))
        if self.schedule.warmup_epochs >= self.epochs:
            problem = f"a warmup of {self.schedule.warmup_epochs:g} epochs fills all {self.epochs} epochs"
            fix = "Give warmup_epochs below train.epochs, or more epochs"
            raise refuse(problem, fix, ("schedule", "warmup_epochs"))
        return self


class ModelSpec(Part):
    """A model by name, with the builder's parameters. `stages` names the tapped modules of a foreign model.

    `weights` is a local path or URI; `pooled` names the module that gives the pooled features; `mean` and `std`
    override the data's normalisation for a model that was trained with another. `classifier: false` builds it without
    its last Linear: no logits, and nothing that needs them.
    """

    model: Text
    weights: Text | None = None
    classifier: bool = True
    params: Parameters = Field(default_factory=dict)
    stages: Annotated[list[Text], Field(min_length=1)] | None = None
    pooled: Text | None = None
    mean: Mean | None = None
    std: Std | None = None

    @model_validator(mode="after")
    def _normalisation(self) -> ModelSpec:
        _both_or_none(self)
        return self


def _cross_entropy() -> dict[str, dict[str, Any]]:
    return {"ce": {}}


class TeacherData(Part):
    """What a teacher is pretrained on unlike the student, laid over the experiment's `data`; None is as there."""

    views: Count | None = None
    augment: Transforms | None = None


class Teacher(ModelSpec):
    """The teacher: `weights`, or pretrained with its own `objectives` and `train` (None = the experiment's `train`).

    In a file `train` holds only what differs: it is merged over the experiment's before it is checked. `data` is what
    its own training, and no other stage, does to the images.
    """

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
    train: Train = Field(default_factory=_evaluation_only)
    cluster: Cluster = Field(default_factory=Cluster, json_schema_extra=OPERATIONAL)
    storage: Text = Field(default="runs", json_schema_extra=OPERATIONAL)
    evaluate: Evaluate = Field(default_factory=Evaluate)

    @model_validator(mode="after")
    def _whole(self) -> Experiment:
        if self.teacher is None and self.student is None:
            fix = "Give teacher: {model: NAME} to train or evaluate one, student: {model: NAME} to train one, or both"
            raise refuse("names neither a teacher nor a student", fix)
        if self.student is not None and not self.objectives:
            raise refuse("a student needs objectives", "Write objectives: {ce: {weight: 1}}", ("objectives",))
        own = self.teacher is not None and (self.teacher.weights is not None or self.teacher.train is not None)
        if "train" not in self.model_fields_set and (self.student is not None or not own):
            fix = "Write train: {epochs: 100, batch: 64, optimizer: {type: sgd, lr: 0.05}} with the recipe's numbers"
            raise refuse("is missing, but the experiment trains a model", fix, ("train",))
        self._batch_divides(self.train, ("train",))
        if self.teacher is not None and self.teacher.train is not None:
            self._batch_divides(self.teacher.train, ("teacher", "train"))
        return self

    @property
    def teacher_data(self) -> Data:
        """`data` as the teacher is pretrained on it."""
        own = self.teacher.data if self.teacher is not None else TeacherData()
        return self.data.model_copy(update={key: value for key, value in own if value is not None})

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


def _both_or_none(part: Data | ModelSpec) -> None:
    for key, other in (("mean", "std"), ("std", "mean")):
        if getattr(part, key) is None and getattr(part, other) is not None:
            raise refuse(f"is given without {key}", "Give both, or neither", (other,))


def _only_for(part: Optimizer | Schedule | LrRule, owners: dict[str, tuple[str, ...]]) -> None:
    """Refuse a key that the chosen type would ignore. One that stands at its default says nothing and may stay."""
    for key, kinds in owners.items():
        value, default = getattr(part, key), type(part).model_fields[key].get_default(call_default_factory=True)
        if part.type not in kinds and value != default:
            problem = f"{key} {value} belongs to type {' or '.join(kinds)}, but the type is {part.type}"
            raise refuse(problem, f"Remove it, or write type: {kinds[0]}", (key,))
