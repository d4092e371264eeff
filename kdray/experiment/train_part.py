"""`train:` of an experiment file: one training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdray.experiment.bounds import BelowOne, Betas, Count, Natural, NonNegative, Positive
from kdray.experiment.part import OPERATIONAL, Part, only_for, refuse


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
        only_for(self, {"momentum": ("sgd",), "nesterov": ("sgd",), "betas": ("adamw",)})
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
        only_for(self, {"milestones": ("multistep",), "gamma": ("multistep",)})
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
        only_for(self, {"base_batch": ("linear", "sqrt")})
        return self


class Checkpointing(Part):
    """When the state of a run is saved, and how many saved states are kept.

    `every_epochs` also waits for the write: whoever hears that such an epoch is over finds its checkpoint.
    """

    every_steps: Count | None = Field(default=None, json_schema_extra=OPERATIONAL)
    every_epochs: Count | None = Field(default=None, json_schema_extra=OPERATIONAL)
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
