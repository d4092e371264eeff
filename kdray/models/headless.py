"""Networks without a classifier: their Linear taken off, so that the pooled vector is what they give.

A self-supervised teacher is one: nothing would train its classifier, and nobody should read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from kdray.errors import ModelError
from kdray.models import foreign
from kdray.models.tapped import TapPlan, make_plan

CLASSES = 10
"""Width of the classifier that a network is built with before it is taken off."""


def take_off(module: nn.Module, name: str) -> None:
    """Put an identity in the place of the classifier `name` of `module`."""
    module.set_submodule(name, nn.Identity())


def plan_without_head(module: nn.Module, recipe: Mapping[str, Any], device: str) -> TapPlan:
    """The plan of a foreign `module` without its classifier, which is taken off here.

    A network whose builder takes no `num_classes` is a backbone already: its output is its pooled vector.

    Raises ModelError when there is no single Linear to take off, or `pooled` is given.
    """
    name, size = recipe["model"], recipe["image_size"]
    if recipe["pooled"] is not None:
        raise ModelError("without a classifier its output is its pooled vector", where="pooled", fix="leave pooled out")
    removed = ""
    if foreign.takes_classes(name):
        whole = make_plan(module, name, CLASSES, size, device, None, None)
        if not whole.info.linear_head:
            raise ModelError(
                "its classifier is not one Linear on a vector, so it cannot be taken off",
                where="classifier",
                fix="use a network that ends in a Linear, or a callable of your own that returns a backbone",
            )
        removed = whole.head
        take_off(module, removed)
    plan = make_plan(module, name, None, size, device, recipe["stages"], None, headless=True)
    return replace(plan, removed=removed)
