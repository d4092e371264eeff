"""SSKD: knowledge distillation meets self-supervision, on rotated views."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdray.experiment.bounds import NonNegative, Positive, Unit
from kdray.objectives.contract import Gather, Needs, Objective, ObjectiveConfig, Setup, StepInfo, Targets
from kdray.objectives.contrast import MlpEmbed
from kdray.objectives.gather import gather_rows, own_rows
from kdray.objectives.kd import softened_kl
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs

_HEAD_SHARE = 60 / (60 + 240)
"""The published share of epochs that train the teacher's head: 60, before the student's 240."""


class SSKDConfig(ObjectiveConfig):
    """Options of `sskd`.

    - `ce`, `kd`, `transfer`, `similarity`: weights of cross-entropy and distillation on the normal view, of
      distillation on the rotated views, and of the similarities between rotated and normal views.
    - `temperature`: T of both distillations. `similarity_temperature`: tau.
    - `transfer_keep`, `similarity_keep`: how much of the rows that the teacher gets wrong is kept, the easiest first.
    - `head_epochs`: epochs that the teacher's head trains before similarities are transferred; a fifth of the run
      where it is left out.
    - `gather`: similarities to the normal views of the global batch or of the worker's own.
    """

    ce: NonNegative = 0.1
    kd: NonNegative = 0.9
    transfer: NonNegative = 2.7
    similarity: NonNegative = 10.0
    temperature: Positive = 4.0
    similarity_temperature: Positive = 0.5
    transfer_keep: Unit = 1.0
    similarity_keep: Unit = 0.75
    head_epochs: NonNegative | None = None
    gather: Gather = "global"


def rank_of(scores: Tensor, target: Tensor) -> Tensor:
    """How many of a row's `scores` [n, k] are above that of its `target` int64 [n]; 0 where the row is right."""
    return (scores > scores.gather(1, target[:, None])).sum(dim=1)


def keep_easy(rank: Tensor, confidence: Tensor, share: float) -> Tensor:
    """bool [n]: all rows of rank 0, and of the others the floor(share * their number) that come first.

    They are ordered by `rank` int64 [n], the lowest first, and within a rank by `confidence` [n], the highest first.
    """
    order = confidence.argsort(descending=True, stable=True)
    order = order[rank[order].argsort(stable=True)]
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    wrong = (rank > 0).sum()
    return place < len(rank) - wrong + (wrong * share).floor()


def kept_kl(student: Tensor, teacher: Tensor, temperature: float, keep: Tensor, kept: Tensor) -> Tensor:
    """T^2 * sum over rows where `keep` bool [n] of KL(softmax(teacher / T) || softmax(student / T)), over `kept` []."""
    log_p = F.log_softmax(teacher / temperature, dim=1)
    log_q = F.log_softmax(student / temperature, dim=1)
    rows = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * torch.where(keep, rows, 0.0).sum() / kept


@register("sskd")
class SSKD(Objective):
    """Distillation of logits and of self-supervised similarities on four rotations of every image."""

    config = SSKDConfig
    provenance = "author-code"
    family = "contrastive"
    source = "Xu, Liu, Li, Loy, ECCV 2020, arXiv 2006.07114"
    # The released 0.9, 2.7 and 10, T 4 and tau 0.5; the overall weight would say the same again.
    search_space: ClassVar = {
        "kd": "loguniform(0.1, 3)",
        "transfer": "loguniform(0.3, 10)",
        "similarity": "loguniform(1, 100)",
        "temperature": "loguniform(1, 8)",
        "similarity_temperature": "loguniform(0.1, 1)",
    }
    options: SSKDConfig

    def __init__(self, options: SSKDConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        if options.similarity > 0:
            width_s, width_t = setup.student.pooled_dim, setup.teacher.pooled_dim
            self.embed_student, self.embed_teacher = MlpEmbed(width_s, width_s), MlpEmbed(width_t, width_t)

    @classmethod
    def needs(cls, options: SSKDConfig) -> Needs:
        return Needs(teacher_logits=True, teacher_pooled=options.similarity > 0, min_views=4)

    def part_weights(self, step: StepInfo) -> dict[str, float]:
        options = self.options
        weights = {"ce": options.ce, "kd": options.kd, "transfer": options.transfer}
        if options.similarity > 0:
            # The teacher's head has no other loss, and no other head has this one: its weight is no choice.
            weights |= {"head": 1.0, "similarity": options.similarity if self._transfers(step) else 0.0}
        return weights

    def idle_parameters(self, step: StepInfo) -> Iterator[nn.Parameter]:
        if self.options.similarity > 0 and not self._transfers(step):
            yield from self.embed_student.parameters()

    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> dict[str, Tensor]:
        assert teacher is not None and student.logits is not None and teacher.logits is not None
        normal, options = len(targets.labels), self.options
        parts = {
            "ce": F.cross_entropy(student.logits[:normal], targets.labels),
            "kd": softened_kl(student.logits[:normal], teacher.logits[:normal], options.temperature),
            "transfer": self._transfer(student.logits[normal:], teacher.logits[normal:], targets.row_labels[normal:]),
        }
        if options.similarity > 0:
            parts |= self._similarities(student.pooled, teacher.pooled, normal, self._transfers(step))
        return parts

    def _transfers(self, step: StepInfo) -> bool:
        first = self.options.head_epochs
        return step.epoch >= (_HEAD_SHARE * step.epochs if first is None else first)

    def _transfer(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        options = self.options
        confidence = F.log_softmax(teacher, dim=1).gather(1, labels[:, None])[:, 0]
        keep, kept = self._keep(rank_of(teacher, labels), confidence, options.transfer_keep)
        return kept_kl(student, teacher, options.temperature, keep, kept)

    def _similarities(self, student: Tensor, teacher: Tensor, normal: int, transfers: bool) -> dict[str, Tensor]:
        """The loss of the teacher's head, and KL between the two networks' similarities [3B, n] to the normal views."""
        options, own = self.options, slice(0, normal)
        if options.gather == "global":
            own = own_rows(normal)
        sample = torch.arange(own.start, own.stop, device=student.device).repeat(len(student) // normal - 1)
        theirs = self._similarity(self.embed_teacher(teacher), normal)
        parts = {"head": F.cross_entropy(theirs, sample)}
        if transfers:
            ours, theirs = self._similarity(self.embed_student(student), normal), theirs.detach()
            confidence = theirs.gather(1, sample[:, None])[:, 0]
            keep, kept = self._keep(rank_of(theirs, sample), confidence, options.similarity_keep)
            parts["similarity"] = kept_kl(ours, theirs, options.similarity_temperature, keep, kept)
        return parts

    def _similarity(self, rows: Tensor, normal: int) -> Tensor:
        """Cosines between rotated rows and normal ones: unit [V*B, d] -> [(V-1)*B, B], or all workers' B."""
        views = rows[:normal]
        return rows[normal:] @ (gather_rows(views) if self.options.gather == "global" else views).T

    def _keep(self, rank: Tensor, confidence: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Which of the worker's rows are kept, and over how many of them the worker's sum is a mean."""
        if self.options.gather == "local":
            keep = keep_easy(rank, confidence, share)
            return keep, keep.sum().clamp_min(1)
        everyone = gather_rows(rank)
        keep = keep_easy(everyone, gather_rows(confidence), share)
        workers = len(everyone) / len(rank)
        return keep[own_rows(len(rank))], keep.sum().clamp_min(1) / workers
