"""What a stage's workers are told: plain, picklable values, every path in them absolute."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kdray.data.dataset import Dataset
from kdray.experiment import Balance, Data, Evaluate, ModelSpec, Train


@dataclass(frozen=True)
class NetSpec:
    """A network to build: its spec, and where its weights come from.

    `weights` is a URI or a name that the model's library knows, None for a fresh start. `init` says which random
    start: networks of one seed and one `init` begin with the same weights.
    """

    spec: ModelSpec
    weights: str | None = None
    init: str = "student"


@dataclass(frozen=True)
class StagePhase:
    """Hyper-parameters that hold once `from_epoch` epochs are finished, whole; `changes` is what the file says."""

    from_epoch: int
    objectives: dict[str, dict[str, Any]]
    train: Train
    changes: dict[str, Any]


@dataclass(frozen=True)
class StageSpec:
    """One stage: train `net` with `objectives` (and a frozen `teacher`), or only evaluate it when `train` is None.

    `folder` is the artifact's folder in `store`; `identity` goes into its record as it is. `balance`, with all its
    parts named, has the weights of `objectives` set before the first step. Where there are `phases`, `objectives` and
    `train` are those of the first epoch.
    """

    name: str
    store: str
    folder: str
    net: NetSpec
    data: Data
    dataset: Dataset
    evaluate: Evaluate
    seed: int
    device: str = "auto"
    teacher: NetSpec | None = None
    objectives: dict[str, dict[str, Any]] = field(default_factory=dict)
    balance: Balance | None = None
    train: Train | None = None
    phases: tuple[StagePhase, ...] = ()
    data_cpus: float = 0.0
    use_ray: bool = False
    identity: dict[str, Any] = field(default_factory=dict)
