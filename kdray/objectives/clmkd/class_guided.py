"""Class-guided contrastive distillation: pull same-class pairs of student and teacher together, push other classes
away.

Reconstruction. `memory` is the module of that name in CRCKD (Xing et al., MICCAI 2021, arXiv 2107.03225) with the noise
contrastive estimate of CRD (Tian et al., ICLR 2020); `inbatch` is the supervised contrastive loss of MLKD over the rows
of both networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from kdray.experiment.bounds import BelowOne, Count, NonNegative, Positive
from kdray.objectives.contract import (
    LOSS,
    Gather,
    Needs,
    ObjectiveConfig,
    Setup,
    StepInfo,
    Targets,
)
from kdray.objectives.contrast import label_contrast
from kdray.objectives.draws import row_keys
from kdray.objectives.heads import Embed
from kdray.objectives.nce import MemoryContrast
from kdray.objectives.registry import register
from kdray.objectives.sharded import BankKind

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class ClassGuidedConfig(ObjectiveConfig):
    """Options of `clmkd.class_guided`.

    - `mode`: `memory` (banks over the training set) or `inbatch`.
    - `temperature`: tau. `dim`: d of the embeddings.
    - `positives` P, `negatives` K, `momentum` of the banks: `memory` only.
    - `bank`: whole on every worker (`replicated`), or an equal share of the samples on each (`sharded`).
    - `gather`: whether `inbatch` sees the global batch or the worker's own. `memory` contrasts with banks, which always
      take the rows of all workers.

    `weight` defaults to 0.8 with banks (CRD) and 1 in the batch (MLKD).
    """

    weight_by_mode: ClassVar[dict[str, float]] = {"memory": 0.8, "inbatch": 1.0}

    mode: Literal["memory", "inbatch"] = "memory"
    weight: NonNegative = 0.8
    temperature: Positive = 0.07
    dim: Count = 128
    positives: Count = 20
    negatives: Count = 4096
    momentum: BelowOne = 0.5
    bank: BankKind = "replicated"
    gather: Gather = "global"

    @model_validator(mode="before")
    @classmethod
    def _weight_of_mode(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("weight") is None:
            mode = value.get("mode", cls.model_fields["mode"].default)
            return value | {"weight": cls.weight_by_mode.get(str(mode), 1.0)}
        return value


@register("clmkd.class_guided")
class ClassGuided(MemoryContrast):
    """Class-guided contrast between student and teacher, with memory banks or in the batch (CLMKD's first module)."""

    config = ClassGuidedConfig
    provenance = "reconstruction"
    family = "contrastive"
    source = "CLMKD (CAAI TIT 2025) from CRCKD (arXiv 2107.03225), CRD (arXiv 1910.10699), MLKD (arXiv 2012.00573)"
    # CRCKD's 0.1 and MLKD's 1 lie inside; its P of 20 and K of 4096, CRD's K of 16384.
    search_space: ClassVar = {
        "weight": "loguniform(0.05, 3)",
        "temperature": "loguniform(0.05, 0.2)",
        "positives": "int(1, 20)",
        "negatives": "logint(1024, 16384)",
        "momentum": "uniform(0, 0.9)",
    }
    options: ClassGuidedConfig

    @classmethod
    def searched(cls, options: ClassGuidedConfig) -> Mapping[str, str]:
        banks = ("positives", "negatives", "momentum")
        return {key: text for key, text in cls.search_space.items() if options.mode == "memory" or key not in banks}

    def __init__(self, options: ClassGuidedConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        self.embed_student = Embed(setup.student.pooled_dim, options.dim)
        self.embed_teacher = Embed(setup.teacher.pooled_dim, options.dim)
        if options.mode == "memory":
            self.remember(setup, options.dim, options.bank)

    @classmethod
    def needs(cls, options: ClassGuidedConfig) -> Needs:
        memory = options.mode == "memory"
        return Needs(teacher_pooled=True, index=memory, labels=memory)

    @classmethod
    def bank_bytes(cls, options: ClassGuidedConfig, setup: Setup) -> int:
        if options.mode == "inbatch":
            return 0
        return cls.remembered_bytes(setup, options.dim, options.bank)

    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> dict[str, Tensor]:
        assert teacher is not None
        u, v = self.embed_student(student.pooled), self.embed_teacher(teacher.pooled)
        if self.options.mode == "memory":
            return {LOSS: self._memory(u, v, targets, step)}
        return {LOSS: label_contrast([u, v], targets.row_labels, self.options.temperature, self.options.gather)}

    def _memory(self, u: Tensor, v: Tensor, targets: Targets, step: StepInfo) -> Tensor:
        options, labels, index = self.options, targets.row_labels, targets.row_index
        keys = row_keys(targets.index, targets.views)
        positives, filled = self.sampler.positives(
            index, labels, keys, options.positives, seed=step.seed, step=step.step
        )
        negatives, exist = self.sampler.negatives(labels, keys, options.negatives, seed=step.seed, step=step.step)
        drawn = torch.cat([positives, negatives], dim=1)
        used = torch.cat([filled, exist.expand_as(negatives)], dim=1)
        return self.contrast(
            u, v, index, drawn, used, options.positives, temperature=options.temperature, momentum=options.momentum
        )
