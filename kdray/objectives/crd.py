"""CRD: contrastive representation distillation with two memory banks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from kdray.experiment.bounds import BelowOne, Count, NonNegative, Positive
from kdray.objectives.contract import LOSS, Needs, ObjectiveConfig, Setup, StepInfo, Targets
from kdray.objectives.draws import row_keys
from kdray.objectives.heads import Embed
from kdray.objectives.nce import MemoryContrast
from kdray.objectives.registry import register
from kdray.objectives.sharded import BankKind

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class CRDConfig(ObjectiveConfig):
    """Options of `crd`.

    - `bank_samples`: K negatives per row, drawn independently.
    - `negatives`: drawn among samples of a `different_class` than the row's, or among `all` but the row's own sample.
    - `temperature`: tau. `dim`: d of the embeddings. `momentum` m of the banks.
    - `bank`: whole on every worker (`replicated`), or an equal share of the samples on each (`sharded`).
    """

    weight: NonNegative = 0.8
    bank_samples: Count = 16384
    negatives: Literal["different_class", "all"] = "different_class"
    temperature: Positive = 0.07
    dim: Count = 128
    momentum: BelowOne = 0.5
    bank: BankKind = "replicated"


@register("crd")
class CRD(MemoryContrast):
    """Noise contrast of each sample's student and teacher embeddings against memory banks of the other network."""

    config = CRDConfig
    provenance = "author-code"
    family = "contrastive"
    source = "Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699"
    # The paper's 0.8, tau 0.07 and K 16384, with the values its successors took.
    search_space: ClassVar = {
        "weight": "loguniform(0.05, 2)",
        "temperature": "loguniform(0.05, 0.2)",
        "bank_samples": "logint(1024, 16384)",
        "momentum": "uniform(0, 0.9)",
    }
    options: CRDConfig

    def __init__(self, options: CRDConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        self.embed_student = Embed(setup.student.pooled_dim, options.dim)
        self.embed_teacher = Embed(setup.teacher.pooled_dim, options.dim)
        self.remember(setup, options.dim, options.bank)

    @classmethod
    def needs(cls, options: CRDConfig) -> Needs:
        return Needs(teacher_pooled=True, index=True, labels=True)

    @classmethod
    def bank_bytes(cls, options: CRDConfig, setup: Setup) -> int:
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
        options, index = self.options, targets.row_index
        u, v = self.embed_student(student.pooled), self.embed_teacher(teacher.pooled)
        negatives, exist = self._negatives(targets, step)
        drawn = torch.cat([index[:, None], negatives], dim=1)
        used = torch.cat([torch.ones_like(exist), exist.expand_as(negatives)], dim=1)
        value = self.contrast(u, v, index, drawn, used, 1, temperature=options.temperature, momentum=options.momentum)
        return {LOSS: value}

    def _negatives(self, targets: Targets, step: StepInfo) -> tuple[Tensor, Tensor]:
        """Samples int64 [n, K] and whether the row has any, bool [n, 1]."""
        labels, keys, count = targets.row_labels, row_keys(targets.index, targets.views), self.options.bank_samples
        if self.options.negatives == "all":
            return self.sampler.others(targets.row_index, labels, keys, count, seed=step.seed, step=step.step)
        return self.sampler.negatives(labels, keys, count, seed=step.seed, step=step.step)
