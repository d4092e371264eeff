"""Small batches with everything an objective can ask for, and every method in the forms that all must hold for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdray.models.outputs import ModelInfo, Outputs
from kdray.objectives import LossReport, ObjectiveSet, Setup, StepInfo, Targets

STEP = StepInfo(epoch=0.5, epochs=4, step=3, seed=11)

RELATIONAL: list[dict[str, Any]] = [
    {"type": "clmkd.class_guided", "mode": "inbatch", "dim": 7},
    {"type": "clmkd.class_guided", "mode": "memory", "dim": 7, "positives": 4, "negatives": 6},
    {"type": "clmkd.gradient_relation", "dim": 7, "anchors": 3},
    {"type": "clmkd.gradient_relation", "dim": 7, "anchors": "batch", "negatives": "all", "symmetric": True},
    {"type": "clmkd.gradient_relation", "dim": 7, "source": "both", "target": "non_target", "gradient_temperature": 4},
    {"type": "clmkd.gradient_relation", "dim": 7, "mode": "memory", "bank_samples": 20, "symmetric": True},
    {"type": "clmkd.semantic_similarity", "form": "gram_kl"},
    {"type": "clmkd.semantic_similarity", "form": "sp"},
    {"type": "clmkd.semantic_similarity", "form": "sp", "maps": True},
    {"type": "clmkd.semantic_similarity", "form": "centroid_kl"},
    {"type": "clmkd.semantic_similarity", "form": "align", "hidden": 8},
]
EVERY: list[dict[str, Any]] = [
    {"type": "ce", "label_smoothing": 0.1},
    {"type": "kd"},
    *RELATIONAL,
    {"type": "clmkd"},
]


def case_id(params: dict[str, Any]) -> str:
    return "-".join(str(value) for value in params.values())


def make_setup(
    classes: int = 5,
    d_s: int = 6,
    d_t: int = 9,
    samples: int = 60,
    labels: np.ndarray | None = None,
    views: int = 1,
    linear_head: bool = True,
) -> Setup:
    def info(name: str, width: int) -> ModelInfo:
        return ModelInfo(name, num_classes=classes, pooled_dim=width, linear_head=linear_head)

    if labels is None:
        labels = np.random.default_rng(1).integers(0, classes, samples)
        labels[:classes] = np.arange(classes)
    return Setup(classes, len(labels), info("small", d_s), info("large", d_t), labels, 8, 4, seed=5, views=views)


@dataclass
class Case:
    """One batch of `setup`: leaves that gradients can be asked of, and the outputs made from them."""

    targets: Targets
    student_pooled: Tensor
    teacher_pooled: Tensor
    student_head: nn.Linear
    teacher_head: nn.Linear
    student: Outputs
    teacher: Outputs

    def run(self, objectives: ObjectiveSet, step: StepInfo = STEP) -> LossReport:
        heads = self.student_head, self.teacher_head
        return objectives(self.targets, self.student, self.teacher, *heads, step)

    def part(self, objectives: ObjectiveSet, step: StepInfo = STEP) -> Tensor:
        """The only member's only part, unweighted, with its graph."""
        (member,) = objectives.members.values()
        teacher = Outputs(*(None if x is None else x.detach() for x in (self.teacher.logits, self.teacher.pooled)))
        teacher.stages = [x.detach() for x in self.teacher.stages]
        (part,) = member(self.targets, self.student, teacher, self.student_head, self.teacher_head, step).values()
        return part


def make_case(
    setup: Setup,
    rows: int = 8,
    *,
    index: list[int] | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    views: int = 1,
    scale: float = 1.0,
) -> Case:
    """`rows` samples of `setup` in `views` views; pooled vectors are non-negative as after a ReLU."""
    assert setup.teacher is not None and setup.labels is not None
    random = torch.Generator().manual_seed(seed)
    where = torch.tensor(index) if index is not None else torch.randperm(setup.num_samples, generator=random)[:rows]
    n = len(where) * views

    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)

    def network(width: int) -> tuple[Tensor, nn.Linear, Outputs]:
        pooled = tensor(n, width).abs().requires_grad_()
        head = nn.Linear(width, setup.num_classes).to(dtype)
        with torch.no_grad():
            head.weight.copy_(tensor(setup.num_classes, width))
            head.bias.copy_(tensor(setup.num_classes))
        stages = [(pooled[:, :, None, None] * tensor(1, width, 2, 2)).relu()]
        return pooled, head, Outputs(head(pooled) * scale, pooled, stages, stages)

    s, head_s, student = network(setup.student.pooled_dim)
    t, head_t, teacher = network(setup.teacher.pooled_dim)
    targets = Targets(torch.from_numpy(setup.labels)[where], where, views)
    return Case(targets, s, t, head_s, head_t, student, teacher)


def build(params: dict[str, Any], setup: Setup, dtype: torch.dtype = torch.float64) -> ObjectiveSet:
    return ObjectiveSet({"one": params}, setup).to(dtype)


def permuted(case: Case, order: Tensor) -> Case:
    """The same samples in another order (one view)."""

    def rows(outputs: Outputs) -> Outputs:
        assert outputs.logits is not None
        return Outputs(outputs.logits[order], outputs.pooled[order], [x[order] for x in outputs.stages], [])

    targets = Targets(case.targets.labels[order], case.targets.index[order])
    leaves = case.student_pooled, case.teacher_pooled, case.student_head, case.teacher_head
    return Case(targets, *leaves, rows(case.student), rows(case.teacher))
