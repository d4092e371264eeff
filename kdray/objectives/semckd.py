"""SemCKD: every stage of the student learns from all stages of the teacher, in shares that an attention assigns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kdray.errors import ConfigError
from kdray.experiment.bounds import Count, NonNegative
from kdray.objectives.connectors import LAST, Conv, StagesConfig, pair_stages, pool_larger, shapes_text
from kdray.objectives.contract import LOSS, Needs, Objective, Setup, StepInfo, Targets
from kdray.objectives.gather import gather_rows
from kdray.objectives.heads import Projection, unit
from kdray.objectives.norm import BatchNorm
from kdray.objectives.registry import register

if TYPE_CHECKING:
    from kdray.models.outputs import Outputs


class SemCKDConfig(StagesConfig):
    """Options of `semckd`.

    - `attend`: what queries and keys are made of. `similarity`: how alike the row's map is to those of the batch (of
      all workers), as `quantiles` points of the sorted similarities. `pooled`: the row's own channel means.
    - `dim`: width of queries and keys. `hidden`: channels inside the translations, by default twice the teacher's.
    - `stages`: those that take part; every student stage of the list meets every teacher stage of it.
    """

    weight: NonNegative = 400.0
    attend: Literal["similarity", "pooled"] = "similarity"
    quantiles: Count = 64
    dim: Count = 16
    hidden: Count | None = None


def quantiles(values: Tensor, count: int) -> Tensor:
    """`count` evenly spaced points of every row's sorted values, smallest first: [n, m] -> [n, count].

    A function of the values alone, not of their order nor, but for its resolution, of their number.
    """
    ordered = values.sort(dim=1).values
    place = torch.linspace(0, values.shape[1] - 1, count, device=values.device, dtype=values.dtype)
    low = place.floor().long()
    high = (low + 1).clamp_max(values.shape[1] - 1)
    part = place - low.to(values.dtype)
    return ordered[:, low] * (1 - part) + ordered[:, high] * part


def similarities(maps: Tensor, everyone: Tensor) -> Tensor:
    """Mean product of each row's map with those of `everyone`: [n, C, H, W], [m, C, H, W] -> [n, m]."""
    return maps.flatten(1) @ everyone.flatten(1).T / maps[0].numel()


def assigned_distance(distances: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Mean over rows and student stages of sum over teacher stages of softmax(q . k) * distance.

    distances [n, S, T], queries [n, S, d], keys [n, T, d], scalar out.
    """
    shares = torch.softmax(queries @ keys.transpose(1, 2), dim=2)
    return (shares * distances).sum(dim=2).mean()


class Embedding(nn.Sequential):
    """Linear, ReLU, Linear, unit length: a query or a key."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__(Projection(width, 2 * dim), nn.ReLU(), Projection(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return unit(super().forward(x))


class Translation(nn.Sequential):
    """1x1, 3x3, 1x1 convolutions with batch norm and ReLU between them, `inner` channels inside."""

    def __init__(self, channels_s: int, channels_t: int, inner: int) -> None:
        first = Conv(channels_s, inner, 1), BatchNorm(inner), nn.ReLU()
        super().__init__(*first, Conv(inner, inner, 3), BatchNorm(inner), nn.ReLU(), Conv(inner, channels_t, 1))


@register("semckd")
class SemCKD(Objective):
    """Feature maps across all pairs of stages, weighted per sample by a trained attention."""

    config = SemCKDConfig
    provenance = "reconstruction"
    family = "features"
    source = "Chen et al., Cross-Layer Distillation with Semantic Calibration, AAAI 2021 (arXiv 2012.03236)"
    mixable = True
    # The published 400, and 50 on ImageNet.
    search_space: ClassVar = {"weight": "loguniform(50, 1000)"}
    options: SemCKDConfig

    def __init__(self, options: SemCKDConfig, setup: Setup) -> None:
        super().__init__(options, setup)
        assert setup.teacher is not None
        pairs = pair_stages(setup, options.stages)
        self.own, self.other = (sorted(set(side)) for side in zip(*pairs, strict=True))
        if options.stages is None:  # no pairs are meant here: a longer network keeps its own last four
            self.own = _last(len(setup.student.stage_shapes))
            self.other = _last(len(setup.teacher.stage_shapes))
        if len(self.other) < 2:
            problem = f"it chooses among stages of the teacher, and there is one: {shapes_text(setup)}"
            raise ConfigError(problem, where="stages", fix="Use fitnet, or a teacher of several stages")
        widths_s = [setup.student.stage_shapes[s][0] for s in self.own]
        widths_t = [setup.teacher.stage_shapes[t][0] for t in self.other]

        def embeddings(widths: list[int]) -> nn.ModuleList:
            enters = widths if options.attend == "pooled" else [options.quantiles] * len(widths)
            return nn.ModuleList(Embedding(width, options.dim) for width in enters)

        self.queries, self.keys = embeddings(widths_s), embeddings(widths_t)
        self.translations = nn.ModuleList(
            nn.ModuleList(Translation(s, t, options.hidden or 2 * t) for t in widths_t) for s in widths_s
        )

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(stages=True)

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
        maps_s = [student.stages[s] for s in self.own]
        maps_t = [teacher.stages[t] for t in self.other]
        rows = []
        for maps, translations in zip(maps_s, self.translations, strict=True):
            assert isinstance(translations, nn.ModuleList)
            rows.append(torch.stack([_distance(*pair) for pair in _meet(maps, maps_t, translations)], dim=1))
        queries, keys = self._embed(self.queries, maps_s), self._embed(self.keys, maps_t)
        return {LOSS: assigned_distance(torch.stack(rows, dim=1), queries, keys)}

    def _embed(self, embeddings: nn.ModuleList, stages: list[Tensor]) -> Tensor:
        """Queries or keys of all stages, [n, stages, dim]."""
        found = []
        for embedding, maps in zip(embeddings, stages, strict=True):
            if self.options.attend == "pooled":
                seen = maps.mean(dim=(2, 3))
            else:
                seen = quantiles(similarities(maps, gather_rows(maps)), self.options.quantiles)
            found.append(embedding(seen))
        return torch.stack(found, dim=1)


def _last(count: int) -> list[int]:
    return list(range(max(0, count - LAST), count))


def _meet(maps: Tensor, stages: list[Tensor], translations: nn.ModuleList) -> list[tuple[Tensor, Tensor]]:
    """One student map as every teacher stage in turn, the larger of the two pooled first."""
    met = []
    for target, translation in zip(stages, translations, strict=True):
        own, wanted = pool_larger(maps, target)
        met.append((translation(own), wanted))
    return met


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of every row, [n]."""
    return (student - teacher).square().mean(dim=(1, 2, 3))
