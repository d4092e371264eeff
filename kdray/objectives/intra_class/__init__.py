"""Intra-class contrastive training of a teacher, gated by a margin.

Reconstruction of "Enriching Knowledge Distillation with Intra-Class Contrastive Learning" (Yuan, Xu, Geng, Rui, arXiv
2509.22053): the structure is that of its abstract and of summaries, details and values are ours. It is listed beside
`ce`, which keeps the classes apart; students then distil from the teacher with any method.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from kdray.errors import ConfigError
from kdray.experiment.bounds import Count, Natural, NonNegative, Positive
from kdray.objectives.contract import (
    LOSS,
    Gather,
    Needs,
    Objective,
    ObjectiveConfig,
    Setup,
    StepInfo,
    Targets,
)
from kdray.objectives.gather import gather_rows, sum_over_workers
from kdray.objectives.heads import Projection, unit
from kdray.objectives.intra_class.cache import ClassCache
from kdray.objectives.intra_class.spread import softened_entropy, spread, sums_of_cache, sums_of_rows
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs

ENTROPY_TEMPERATURE = 4.0
DISTANCES = 3
DIAGNOSTICS = ("anchors", "intra_distance", "inter_distance", "distance_ratio", "entropy")


class IntraClassConfig(ObjectiveConfig):
    """Options of `intra_class`; `weight` is the paper's lambda.

    - `temperature`: tau.
    - `delta`: a sample is an anchor when its `margin` is above it: p_y - max of the others (`probability`, in [-1, 1];
      -1 lets all pass) or the same of the `logit`s.
    - `divide_by`: the number of `anchors`, or the `batch`, which lets the term grow in as the teacher gets confident.
    - `cache`: M vectors kept per class, 0 for none; `max_age` in steps of what is used of them; `push` all rows or the
      `anchors` only; `storage` of the vectors.
    - `start_epoch`: before it everything is computed, kept and reported, and nothing added to the loss.
    - `report_every`: steps between two looks at the whole cache for the reported distances; 1 looks at every step.
    - `head`: contrast pooled vectors (`none`), or their projection to `dim` by a Linear or by an MLP.
    - `gather`: class-mates from the global batch or the worker's own. The cache takes the rows of all workers.
    """

    weight: NonNegative = 0.02
    temperature: Positive = 0.1
    margin: Literal["probability", "logit"] = "probability"
    delta: float = 0.3
    divide_by: Literal["anchors", "batch"] = "anchors"
    cache: Natural = 16
    max_age: Count | None = None
    push: Literal["all", "anchors"] = "all"
    storage: Literal["float32", "float16"] = "float32"
    start_epoch: NonNegative = 0.0
    report_every: Count = 50
    head: Literal["none", "linear", "mlp"] = "none"
    dim: Count = 128
    gather: Gather = "global"

    @model_validator(mode="after")
    def _delta_fits(self) -> IntraClassConfig:
        if self.margin == "probability" and not -1 <= self.delta < 1:
            raise ValueError(f"delta {self.delta} is not in -1 up to 1: no margin of probabilities is above 1")
        return self

    @property
    def dtype(self) -> torch.dtype:
        """That of the cached vectors."""
        return torch.float16 if self.storage == "float16" else torch.float32


def confidence_margin(logits: Tensor, labels: Tensor, margin: str = "probability") -> Tensor:
    """The label's value less the largest of the others, of the softmax or of the logits [n, C]; [n], detached."""
    values = logits.detach().softmax(dim=1) if margin == "probability" else logits.detach()
    own = values.gather(1, labels[:, None])
    return own[:, 0] - values.scatter(1, labels[:, None], -torch.inf).amax(dim=1)


def intra_contrast(anchors: Tensor, positives: Tensor, scores: Tensor, usable: Tensor, temperature: float) -> Tensor:
    """Per row -log [exp(a.p / tau) / (exp(a.p / tau) + sum_k exp(score_k / tau))] over usable k; 0 where there is none.

    anchors, positives [n, d], unit rows; scores [n, k], cosines to negatives; usable bool [n, k] -> [n].
    """
    positive = (anchors * positives).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, scores.masked_fill(~usable, -torch.inf)], dim=1) / temperature
    return logits.logsumexp(dim=1) - logits[:, 0]


@register("intra_class")
class IntraClass(Objective):
    """Contrast of confident samples with their classes' other samples, for training a teacher with richer classes."""

    config = IntraClassConfig
    provenance = "reconstruction"
    family = "teacher"
    source = "Intra-class contrastive KD (arXiv 2509.22053), details ours"
    # No value is published: grids that readers of the paper took.
    search_space: ClassVar = {
        "weight": "loguniform(0.005, 0.1)",
        "temperature": "loguniform(0.07, 0.5)",
        "delta": "uniform(0, 0.9)",
    }
    options: IntraClassConfig

    distances: Tensor
    measured: bool

    @classmethod
    def searched(cls, options: IntraClassConfig) -> Mapping[str, str]:
        # A margin of logits has another scale than one of probabilities.
        unused = "delta" if options.margin == "logit" else None
        return {key: text for key, text in cls.search_space.items() if key != unused}

    def __init__(self, options: IntraClassConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        if setup.student.num_classes is None:
            fix = "Build the network with its classes"
            raise ConfigError(f"the margin needs logits, and {setup.student.name} has no classifier", fix=fix)
        width = setup.student.pooled_dim
        self.classes = setup.num_classes
        self.head: nn.Module = nn.Identity()
        if options.head == "linear":
            self.head = Projection(width, options.dim)
        elif options.head == "mlp":
            self.head = nn.Sequential(Projection(width, width), nn.ReLU(), Projection(width, options.dim))
        self.cache: ClassCache | None = None
        if options.cache:
            self.cache = ClassCache(setup.num_classes, options.cache, _dim(options, setup), options.dtype)
            # What the cache's spread last was, NaN before; the flag stands on the host, so that no step waits to see.
            self.register_buffer("distances", torch.full((DISTANCES,), math.nan))
            self.measured = False
            self.register_load_state_dict_post_hook(_look_at_distances)

    @classmethod
    def needs(cls, options: IntraClassConfig) -> Needs:
        return Needs(teacher=False, min_views=2, index=True)

    @classmethod
    def bank_bytes(cls, options: IntraClassConfig, setup: Setup) -> int:
        cache = ClassCache.bytes(setup.num_classes, options.cache, _dim(options, setup), options.dtype)
        return cache + 4 * DISTANCES if cache else 0

    def part_weights(self, step: StepInfo) -> dict[str, float]:
        return {LOSS: float(self._started(step))} | dict.fromkeys(DIAGNOSTICS, 0.0)

    def idle_parameters(self, step: StepInfo) -> Iterator[nn.Parameter]:
        return iter(()) if self._started(step) else self.parameters()

    def _started(self, step: StepInfo) -> bool:
        return step.epoch >= self.options.start_epoch

    def forward(
        self,
        targets: Targets,
        student: Outputs,
        teacher: Outputs | None,
        student_head: nn.Linear | None,
        teacher_head: nn.Linear | None,
        step: StepInfo,
    ) -> dict[str, Tensor]:
        assert student.logits is not None
        options, rows = self.options, len(targets.labels)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._started(step)):
            # The first view is the sample, the second its augmentation; further views belong to other objectives.
            z = unit(self.head(student.pooled[: 2 * rows]))
            anchors, positives = z[:rows], z[rows:]
            scores, usable = self._negatives(anchors, targets, step)
            confident = confidence_margin(student.logits[:rows], targets.labels, options.margin) > options.delta
            if options.margin == "probability" and options.delta == -1:
                confident = torch.ones_like(confident)
            chosen = confident & usable.any(dim=1)
            terms = intra_contrast(anchors, positives, scores, usable, options.temperature)
            total = torch.where(chosen, terms, 0.0).sum()
        parts = {LOSS: total / self._divisor(chosen)}
        with torch.no_grad():
            z = anchors.detach()
            if self.cache is not None:
                keep = confident if options.push == "anchors" else torch.ones_like(confident)
                known = targets.labels, targets.index, targets.index
                self.cache.push(z, *known, keep, seed=step.seed, step=step.step)
            values = chosen.to(z.dtype).mean(), *self._spread(z, targets.labels, step).unbind()
            entropy = softened_entropy(student.logits.detach(), ENTROPY_TEMPERATURE)
        return parts | dict(zip(DIAGNOSTICS, (*values, entropy), strict=True))

    def _negatives(self, anchors: Tensor, targets: Targets, step: StepInfo) -> tuple[Tensor, Tensor]:
        """Cosines of the anchors [n, d] with other samples' rows, and which of them are of the anchor's class: N_i.

        Columns: the batch's first views (with gradient), then the class's ring (without).
        """
        labels, index = targets.labels, targets.index
        rows, all_labels, all_index = anchors, labels, index
        if self.options.gather == "global":
            rows, all_labels, all_index = gather_rows(anchors), gather_rows(labels), gather_rows(index)
        scores = anchors @ rows.T
        usable = (labels[:, None] == all_labels) & (index[:, None] != all_index)
        if self.cache is None:
            return scores, usable
        filled = self.cache.filled(step.step, self.options.max_age)[labels]
        others = self.cache.index[labels] != index[:, None]
        return torch.cat([scores, self.cache.scores(anchors, labels)], dim=1), torch.cat(
            [usable, filled & others], dim=1
        )

    def _divisor(self, chosen: Tensor) -> Tensor | int:
        """What the sum over this worker's anchors is divided by, so that the workers' mean is the value of all rows."""
        if self.options.divide_by == "batch":
            return len(chosen)
        count, workers = chosen.sum(), 1
        if self.options.gather == "global":
            count, workers = sum_over_workers(count)
        return count.clamp_min(1) / workers

    def _spread(self, z: Tensor, labels: Tensor, step: StepInfo) -> Tensor:
        """`spread` [3] of what the cache holds, looked at every `report_every` steps; without a cache of the batch."""
        if self.cache is not None:
            if not self.measured or step.step % self.options.report_every == 0:
                filled = self.cache.filled(step.step, self.options.max_age)
                self.distances.copy_(torch.stack(spread(*sums_of_cache(self.cache, filled, z.dtype))))
                self.measured = True
            return self.distances.clone()
        if self.options.gather == "global":
            z, labels = gather_rows(z), gather_rows(labels)
        return torch.stack(spread(*sums_of_rows(z, labels, self.classes)))


def _look_at_distances(module: nn.Module, incompatible: Any) -> None:
    assert isinstance(module.distances, Tensor)
    module.measured = not bool(module.distances.isnan().any())  # type: ignore[assignment]


def _dim(options: IntraClassConfig, setup: Setup) -> int:
    return setup.student.pooled_dim if options.head == "none" else options.dim
