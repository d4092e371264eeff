"""The one contract of all objectives: what an objective declares, sees and returns.

An objective is a typed config and a module built from it. Per step it sees labels, the `Outputs` of student and
teacher and their classifiers, and returns named, unweighted parts. Its projection heads are its parameters; its banks
are its buffers. The image never reaches it, and it never moves anything between devices.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator
from torch import Tensor, nn

from kdray.experiment.bounds import NonNegative
from kdray.experiment.part import Part

if TYPE_CHECKING:
    from kdray.models.outputs import ModelInfo, Net, Outputs

Provenance = Literal["author-code", "paper", "reconstruction"]
Gather = Literal["local", "global"]

LOSS = "loss"
"""Part name of an objective that has a single part: it is reported under the objective's own name."""


class WeightSchedule(Part):
    """A factor in [0, 1] on an objective's weight, as a function of the epoch alone.

    - `constant`: 1.
    - `warmup`: linear from 0 to 1 over the first `epochs`.
    - `cosine`: (1 + cos(pi * epoch / all epochs)) / 2, from 1 to 0 over the run; `epochs` must be left out.
    - `taper`: 1, then exactly 0 in the last `epochs` (CRCD trains its last 10 epochs without distillation).

    `schedule: cosine` is short for `schedule: {type: cosine}`.
    """

    type: Literal["constant", "warmup", "cosine", "taper"] = "constant"
    epochs: NonNegative = 0.0

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _epochs_fit(self) -> WeightSchedule:
        if self.type in ("warmup", "taper") and self.epochs == 0:
            raise ValueError(f"{self.type} needs `epochs` above 0")
        if self.type in ("constant", "cosine") and self.epochs != 0:
            raise ValueError(f"{self.type} takes no `epochs`")
        return self

    def at(self, epoch: float, epochs: int) -> float:
        """The factor at the fractional `epoch` of a run of `epochs`."""
        if self.type == "warmup":
            return min(max(epoch / self.epochs, 0.0), 1.0)
        if self.type == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(max(epoch / max(epochs, 1), 0.0), 1.0)))
        if self.type == "taper":
            return 0.0 if epoch >= epochs - self.epochs else 1.0
        return 1.0


class ObjectiveConfig(Part):
    """What every objective takes: its `weight` in the total and the `schedule` of that weight."""

    weight: NonNegative = 1.0
    schedule: WeightSchedule = WeightSchedule()

    def weight_at(self, step: StepInfo) -> float:
        """Weight times schedule at `step`; exactly 0.0 means that the objective is not computed."""
        return self.weight * self.schedule.at(step.epoch, step.epochs)


@dataclass(frozen=True)
class Needs:
    """What an objective must be given; what nobody declares is not computed.

    Attributes:
        teacher: a teacher's `Outputs` at all.
        teacher_logits: the teacher must have a classifier over the same classes.
        teacher_pooled: the teacher's pooled vector (a teacher's logits alone, such as cached ones, do not do).
        stages: `Outputs.stages`, of both networks.
        preact: `Outputs.preact`, of both networks.
        min_views: the least number of views of every image (`data.views`).
        index: `Targets.index`, the dense row number of every sample.
        labels: `Setup.labels`, the labels of the whole training set (the labels of the batch always come).
    """

    teacher: bool = True
    teacher_logits: bool = False
    teacher_pooled: bool = False
    stages: bool = False
    preact: bool = False
    min_views: int = 1
    index: bool = False
    labels: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            teacher=self.teacher or other.teacher,
            teacher_logits=self.teacher_logits or other.teacher_logits,
            teacher_pooled=self.teacher_pooled or other.teacher_pooled,
            stages=self.stages or other.stages,
            preact=self.preact or other.preact,
            min_views=max(self.min_views, other.min_views),
            index=self.index or other.index,
            labels=self.labels or other.labels,
        )


NOTHING = Needs(teacher=False)


@dataclass(frozen=True)
class Setup:
    """What is known before the first step: an objective sizes its heads and banks from it.

    `num_samples` is the number of rows that `Targets.index` counts over, `labels` int64 [num_samples] their labels,
    -1 for a row that is not trained on (held out for validation, outside of `limit`): banks never draw it. `batch` is
    the global batch, `seed` what the initial banks are drawn from, so that all workers hold equal ones. `workers` is
    what `bank_bytes` counts with, ahead of the run; in it the process group tells. `mixed`: images will be mixed, see
    `Mixed`.
    """

    num_classes: int
    num_samples: int
    student: ModelInfo
    teacher: ModelInfo | None
    labels: np.ndarray | None
    batch: int
    epochs: int
    seed: int
    views: int = 1
    workers: int = 1
    mixed: bool = False


@dataclass(frozen=True)
class StepInfo:
    """Position in the run: fractional `epoch` of `epochs`, global `step`, and the experiment's `seed`."""

    epoch: float
    epochs: int
    step: int
    seed: int


@dataclass(frozen=True)
class Mixed:
    """What is known of the other halves of mixed images: int64 [B] `labels` of each one's partner.

    Image i is `share` (in [0, 1]) of sample i, whose label is `Targets.labels[i]`, and the rest of its partner.
    """

    labels: Tensor
    share: float


@dataclass(frozen=True)
class Targets:
    """What is known of the local batch: `labels` int64 [B], `index` int64 [B]; networks see V*B rows, row = v*B + i.

    `mixed` is None where the images are as they are. Where it is not, teacher and student see the same mixed images,
    and only an objective that is `mixable` sees these targets.
    """

    labels: Tensor
    index: Tensor
    views: int = 1
    mixed: Mixed | None = None

    @property
    def row_labels(self) -> Tensor:
        """The label of every row that the networks saw, int64 [V*B]."""
        return self.labels if self.views == 1 else self.labels.repeat(self.views)

    @property
    def row_index(self) -> Tensor:
        """The sample index of every row that the networks saw, int64 [V*B]."""
        return self.index if self.views == 1 else self.index.repeat(self.views)

    @property
    def row_mixed_labels(self) -> Tensor | None:
        """The label of what is mixed into every row that the networks saw, int64 [V*B]; None for plain images."""
        return None if self.mixed is None else self.mixed.labels.repeat(self.views)


class Objective(nn.Module, ABC):
    """One method. A subclass names its config class and where its formula comes from, and is registered by name.

    Its parameters are its heads, its buffers its state (banks, centroids, constants): both are saved with the run and
    never with the student. Inputs come as float32 (float64 stays), the teacher's detached, autocast switched off; the
    result must not depend on the order of the rows, and `forward` must not wait for the device (no `.item()`, no
    shape that depends on values). A part is a mean over rows or pairs such that its mean over workers is the value of
    one worker with all rows.
    """

    config: ClassVar[type[ObjectiveConfig]]
    provenance: ClassVar[Provenance]
    family: ClassVar[str]
    source: ClassVar[str]
    method: ClassVar[str] = ""
    mixable: ClassVar[bool] = False
    """Whether it is sound on mixed images (`data.mix`), of which each has two labels and two row numbers. It is where
    it compares both networks' outputs of the same image and does not read `Targets.labels`, or reads `Targets.mixed`
    beside them. Where options decide, `takes_mixed` does."""
    search_space: ClassVar[Mapping[str, str]] = {}
    """What `search.space: default` searches of it: paths below its name, with a distribution each. Nothing that changes
    the shape of its heads or its state, so that any scheduler can move it; the middle is near the published value."""
    revision: ClassVar[int] = 1
    """Raised when a default or the formula changes: what an earlier revision trained is not taken for this one's."""

    def __init__(self, options: ObjectiveConfig, setup: Setup) -> None:
        """Build heads and state for `setup`.

        Raises:
            ConfigError: the networks or the data of `setup` cannot serve these options.
        """
        super().__init__()
        self.options = options

    @classmethod
    def needs(cls, options: Any) -> Needs:
        """What these options need; known before any network is built."""
        return NOTHING

    @classmethod
    def takes_mixed(cls, options: Any) -> bool:
        """Whether these options are sound on mixed images, see `mixable`."""
        return cls.mixable

    @classmethod
    def searched(cls, options: Any) -> Mapping[str, str]:
        """What `search_space` is for these options: without what they leave unused."""
        return cls.search_space

    @classmethod
    def bank_bytes(cls, options: Any, setup: Setup) -> int:
        """Bytes of state that every worker holds for these options; printed before a run starts."""
        return 0

    def part_weights(self, step: StepInfo) -> dict[str, float]:
        """Weights of the parts inside the objective where they are not 1. A part of weight 0 is reported, never
        added."""
        return {}

    def idle_parameters(self, step: StepInfo) -> Iterator[nn.Parameter]:
        """Parameters that this step's `forward` will not touch (DDP must see a gradient for them all the same)."""
        return iter(())

    def deployed(self, net: Net, teacher: Net | None) -> Net:
        """The network that is validated, tested and exported in place of the student `net`; `net` itself by default.

        Another one shares its parameters with the student, this objective's heads and the (frozen) teacher, so that
        training them trains it, and carries a recipe that builds it again.

        Raises:
            ConfigError: these networks cannot be put together.
        """
        return net

    @abstractmethod
    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> dict[str, Tensor]:
        """The unweighted parts, scalars; `{LOSS: value}` where there is one."""


@dataclass
class LossReport:
    """`total` (with graph) = sum of weights * parts; `parts` unweighted, detached; `weights` of all parts of this step.

    Both are keyed by `NAME` or `NAME.PART`. What has weight 0 at this step is not computed: it is in `weights` (as
    0.0, by the objective's name) and not in `parts`.
    """

    total: Tensor
    parts: dict[str, Tensor]
    weights: dict[str, float] = field(default_factory=dict)
