"""The intra-class objective on small cases, and what its cache should hold of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdray.objectives import ObjectiveSet, Setup
from kdray.objectives.intra_class import DIAGNOSTICS

from .cases import STEP, Case, make_case, make_setup

Held = list[tuple[Tensor, int, int]]
"""What a cache may hold: unit vector, label, sample."""


def run(objectives: ObjectiveSet, case: Case, step: int = 3) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss with its graph, and all parts."""
    (member,) = objectives.members.values()
    heads = case.student_head, case.teacher_head
    parts = member(case.targets, case.student, None, *heads, replace(STEP, step=step))
    assert tuple(parts) == ("loss", *DIAGNOSTICS)
    return parts["loss"], parts


def trained(setup: Setup, rows: int = 8, **options: Any) -> Case:
    """A case whose network knows some of the labels."""
    case = make_case(setup, rows, **options)
    known = torch.nn.functional.one_hot(case.targets.row_labels, setup.num_classes)
    case.student.logits = 0.3 * case.student.logits + 1.5 * known
    return case


def build(params: dict[str, Any], **setup: Any) -> ObjectiveSet:
    return ObjectiveSet({"intra_class": params}, make_setup(views=2, **setup)).double()


def held(case: Case) -> Held:
    n = len(case.targets.labels)
    z = case.student_pooled.detach()[:n]
    return [(z[i] / z[i].norm(), int(case.targets.labels[i]), int(case.targets.index[i])) for i in range(n)]
