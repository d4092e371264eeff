"""Small batches with everything an objective can ask for, and every method in the forms that all must hold for."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdray.models.outputs import ModelInfo, Outputs
from kdray.objectives import LossReport, ObjectiveSet, Setup, StepInfo, Targets, needs, parse

from . import forms

STEP = StepInfo(epoch=0.5, epochs=4, step=3, seed=11)

SHAPES = ((4, 8, 8), (6, 4, 4)), ((5, 8, 8), (7, 4, 4))
"""(C, H, W) of the shallower stages of student and teacher; the last stage is as wide as the pooled vector."""

_FORMS = [importlib.import_module(module.name) for module in pkgutil.iter_modules(forms.__path__, forms.__name__ + ".")]
EVERY: list[dict[str, Any]] = [form for module in _FORMS for form in module.FORMS]
DETACHED: list[dict[str, Any]] = [form for module in _FORMS for form in getattr(module, "DETACHED", [])]
"""Forms with a detached tensor that depends on the student (centroids, its own anchors): differences see more than the
gradient does, so these are compared with loops in their own tests."""


def views_of(params: dict[str, Any]) -> int:
    """The views that this form asks for."""
    return needs({"one": params}).min_views


def gathers(params: dict[str, Any]) -> bool:
    """Whether this form compares rows of the batch, and says of which batch."""
    (entry,) = parse({"one": params})
    return "gather" in type(entry.options).model_fields


def case_id(params: dict[str, Any]) -> str:
    """The form's name in test reports: with the options' names, for values alone are not unique."""
    return "-".join([params["type"], *(f"{key}={value}" for key, value in params.items() if key != "type")])


def make_setup(
    classes: int = 5,
    d_s: int = 6,
    d_t: int = 9,
    samples: int = 60,
    labels: np.ndarray | None = None,
    views: int = 1,
    linear_head: bool = True,
) -> Setup:
    def info(name: str, width: int, shapes: tuple[tuple[int, ...], ...]) -> ModelInfo:
        stages = (*shapes, (width, 2, 2))
        return ModelInfo(name, num_classes=classes, pooled_dim=width, stage_shapes=stages, linear_head=linear_head)

    if labels is None:
        labels = np.random.default_rng(1).integers(0, classes, samples)
        labels[:classes] = np.arange(classes)
    return Setup(
        classes,
        len(labels),
        info("small", d_s, SHAPES[0]),
        info("large", d_t, SHAPES[1]),
        labels,
        8,
        4,
        seed=5,
        views=views,
    )


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
        teacher = mapped(self.teacher, Tensor.detach)
        (part,) = member(self.targets, self.student, teacher, self.student_head, self.teacher_head, step).values()
        return part


def mapped(outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
    """`change` on every tensor of `outputs`."""
    return Outputs(
        None if outputs.logits is None else change(outputs.logits),
        change(outputs.pooled),
        [change(x) for x in outputs.stages],
        [change(x) for x in outputs.preact],
    )


def network_outputs(info: ModelInfo, pooled: Tensor, head: nn.Linear, scale: float = 1.0) -> Outputs:
    """What a network of `info` might give along with `pooled` [n, d]: all of it made of `pooled`, the maps by fixed
    random mixtures."""
    random = torch.Generator().manual_seed(info.pooled_dim)
    preact = []
    for channels, height, width in info.stage_shapes:
        mix = torch.randn(pooled.shape[1], channels, height, width, generator=random, dtype=torch.float64)
        preact.append(torch.einsum("nd,dchw->nchw", pooled, mix.to(pooled.dtype)))
    return Outputs(head(pooled) * scale, pooled, [x.relu() for x in preact], preact)


def make_case(
    setup: Setup,
    rows: int = 8,
    *,
    index: list[int] | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    scale: float = 1.0,
) -> Case:
    """`rows` samples of `setup` in its views; pooled vectors are non-negative as after a ReLU."""
    assert setup.teacher is not None and setup.labels is not None
    random = torch.Generator().manual_seed(seed)
    where = torch.tensor(index) if index is not None else torch.randperm(setup.num_samples, generator=random)[:rows]
    n = len(where) * setup.views

    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)

    def network(info: ModelInfo) -> tuple[Tensor, nn.Linear, Outputs]:
        pooled = tensor(n, info.pooled_dim).abs().requires_grad_()
        head = nn.Linear(info.pooled_dim, setup.num_classes).to(dtype)
        with torch.no_grad():
            head.weight.copy_(tensor(setup.num_classes, info.pooled_dim))
            head.bias.copy_(tensor(setup.num_classes))
        return pooled, head, network_outputs(info, pooled, head, scale)

    s, head_s, student = network(setup.student)
    t, head_t, teacher = network(setup.teacher)
    targets = Targets(torch.from_numpy(setup.labels)[where], where, setup.views)
    return Case(targets, s, t, head_s, head_t, student, teacher)


def build(params: dict[str, Any], setup: Setup, dtype: torch.dtype = torch.float64) -> ObjectiveSet:
    return ObjectiveSet({"one": params}, setup).to(dtype)


def repeated(case: Case) -> Case:
    """The batch of one view in two equal views."""
    targets = replace(case.targets, views=2)
    leaves = case.student_pooled, case.teacher_pooled, case.student_head, case.teacher_head
    student, teacher = (mapped(outputs, lambda x: torch.cat([x, x])) for outputs in (case.student, case.teacher))
    return Case(targets, *leaves, student, teacher)


def permuted(case: Case, order: Tensor) -> Case:
    """The same samples in another order."""
    views, samples = case.targets.views, len(order)
    rows = torch.cat([order + view * samples for view in range(views)])
    targets = Targets(case.targets.labels[order], case.targets.index[order], views)
    leaves = case.student_pooled, case.teacher_pooled, case.student_head, case.teacher_head
    student, teacher = (mapped(outputs, lambda x: x[rows]) for outputs in (case.student, case.teacher))
    return Case(targets, *leaves, student, teacher)
