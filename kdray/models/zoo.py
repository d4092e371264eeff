"""Build a network by its name in the experiment file, or say what it would be without allocating it.

A bare name is a network of the CIFAR zoo; `torchvision/NAME`, `timm/NAME` and `package.module:callable` come from
elsewhere (`foreign`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Protocol, cast

import torch
from torch import nn

from kdray.errors import ModelError, nearest
from kdray.models import composed, foreign
from kdray.models.blocks import Backbone
from kdray.models.eager import flop_counter
from kdray.models.headless import CLASSES, plan_without_head, take_off
from kdray.models.meta import on_meta, runs_unfilled, unfilled
from kdray.models.outputs import ModelInfo, Net
from kdray.models.probe import IMAGES, quiet_random
from kdray.models.registry import Entry, entries, find, known_names
from kdray.models.tapped import TappedNet, TapPlan, make_plan


class Spec(Protocol):
    """What is read of an experiment's `teacher:` or `student:`; `stages`, `pooled` and `params` may be missing."""

    @property
    def model(self) -> str: ...


@dataclass(frozen=True)
class ModelRow:
    """One network of the CIFAR zoo as `list_models` shows it; parameters at 100 classes."""

    name: str
    parameters: int
    source: str


def build(spec: Spec, num_classes: int | None, image_size: int) -> Net:
    """Build the network of `spec`, initialised from torch's random state, on the CPU.

    Args:
        spec: `model`, and if there `params` (the builder's), `stages` and `pooled`. Those two name modules of a foreign
            network to tap; of a zoo network `stages` picks among its declared stages. `classifier` False takes the
            classifier off: the network has no logits.
        num_classes: width of the logits; None keeps a foreign network's own head.
        image_size: side of the square images that it will see.

    Raises:
        ModelError: an unknown name, parameter or module; a network that cannot run on such images.
    """
    if spec.model == composed.NAME:
        return _build_composed(spec, num_classes, image_size)
    recipe = _recipe(spec, num_classes, image_size)
    plan = _plan(recipe)
    module = _construct(recipe)
    if isinstance(plan, TapPlan):
        if plan.removed:
            take_off(module, plan.removed)
        return TappedNet(module, plan, recipe)
    return Net(module, plan, recipe, _chosen(module, recipe["stages"]))


def describe(spec: Spec, num_classes: int | None, image_size: int) -> ModelInfo:
    """What `build` would give, found on the meta device, or of a small network on small images by running it once with
    whatever memory it gets: no random numbers are drawn.

    Only a foreign network that cannot be built there (it reads its own weights while it is built) is built on the CPU
    and thrown away. Raises the same ModelError as `build`.
    """
    if spec.model == composed.NAME:
        student, shape = composed.read_params(spec)
        classes = _classes(composed.NAME, num_classes)
        return composed.composed_info(describe(student, classes, image_size), shape, classes)
    plan = _plan(_recipe(spec, num_classes, image_size))
    return plan.info if isinstance(plan, TapPlan) else plan


@cache
def list_models() -> list[ModelRow]:
    """All networks of the CIFAR zoo, in the natural order of their names."""
    rows = []
    for name in sorted(entries(), key=lambda key: [int(part) if part.isdigit() else part for part in _parts(key)]):
        entry = entries()[name]
        with on_meta():
            count = sum(parameter.numel() for parameter in entry(100, {}).parameters())
        rows.append(ModelRow(name, count, entry.source))
    return rows


def _parts(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def _recipe(spec: Spec, num_classes: int | None, image_size: int) -> dict[str, Any]:
    entry = None if foreign.is_foreign(spec.model) else _entry(spec.model)
    stages = getattr(spec, "stages", None)
    classifier = getattr(spec, "classifier", True)
    return {
        "model": entry.name if entry else spec.model,
        "params": dict(getattr(spec, "params", None) or {}),
        "stages": None if stages is None else list(stages),
        "pooled": getattr(spec, "pooled", None),
        "classifier": classifier,
        "num_classes": num_classes if classifier else None,
        "image_size": image_size,
    }


def _entry(name: str) -> Entry:
    entry = find(name)
    if entry is None:
        known = [f"torchvision/{other}" for other in foreign.torchvision_names()]
        close = nearest(name, known_names()) or nearest(f"torchvision/{name}", known)
        if f"torchvision/{name}" in known:
            close = f" (did you mean 'torchvision/{name}'?)"
        raise ModelError(
            f"unknown model {name!r}{close}",
            where="model",
            fix=f"write one of {', '.join(row.name for row in list_models())}, "
            "or torchvision/NAME, timm/NAME, package.module:callable",
        )
    return entry


def _construct(recipe: Mapping[str, Any]) -> nn.Module:
    name, classifier, params = recipe["model"], recipe["classifier"], recipe["params"]
    num_classes = recipe["num_classes"] if classifier else CLASSES
    if foreign.is_foreign(name):
        return foreign.construct(name, num_classes, recipe["image_size"], params)
    module = _entry(name)(_classes(name, num_classes), params)
    if not classifier:
        take_off(module, cast(Backbone, module).head_name)
    return module


def _classes(name: str, num_classes: int | None) -> int:
    if num_classes is None:
        raise ModelError(f"{name} needs a number of classes", where="model")
    return num_classes


def _build_composed(spec: Spec, num_classes: int | None, image_size: int) -> Net:
    inside, shape = composed.read_params(spec)
    classes = _classes(composed.NAME, num_classes)
    student = build(inside, classes, image_size)
    info = composed.composed_info(student.info, shape, classes)  # refuses what cannot be composed
    projector = composed.Projector(info.stage_shapes[-1][0], shape.channels, shape.factor)
    return composed.compose(student, projector, nn.Linear(shape.channels, classes), shape)


def _chosen(module: nn.Module, names: list[str] | None) -> tuple[int, ...] | None:
    """Numbers of a zoo network's declared stages, None for all of them."""
    if names is None:
        return None
    declared = cast(Backbone, module).stage_names
    for name in names:
        if name not in declared:
            raise ModelError(
                f"no stage {name!r}{nearest(name, declared)}", where="stages", fix=f"it has: {', '.join(declared)}"
            )
    return tuple(declared.index(name) for name in names)


def _plan(recipe: Mapping[str, Any]) -> TapPlan | ModelInfo:
    """A tap plan, or for a zoo network at its declared taps what is known of it."""
    name = recipe["model"]
    try:
        with quiet_random():
            if foreign.is_foreign(name):
                return _plan_foreign(recipe)
            return _plan_zoo(_Asked(json.dumps(recipe, sort_keys=True, default=repr), recipe))
    except ModelError as error:
        # `where` of the inner error is a key beside `model`; the reader needs to know of which model.
        where = f"model {name}, {error.where}" if error.where else f"model {name}"
        raise ModelError(error.problem, where=where, fix=error.fix) from error.__cause__


def _plan_foreign(recipe: Mapping[str, Any]) -> TapPlan:
    def on(device: str) -> TapPlan:
        with on_meta() if device == "meta" else torch.device(device):
            module = _construct(recipe)
        if not recipe["classifier"]:
            return plan_without_head(module, recipe, device)
        size, classes = recipe["image_size"], recipe["num_classes"]
        return make_plan(module, recipe["model"], classes, size, device, recipe["stages"], recipe["pooled"])

    try:
        return on("meta")
    except ModelError as error:
        if error.__cause__ is None:
            raise
        # Someone else's code failed, perhaps only because there are no values on the meta device.
        return on("cpu")


@dataclass(frozen=True)
class _Asked:
    """A recipe by which an answer is remembered."""

    text: str
    recipe: Mapping[str, Any] = field(compare=False)


@lru_cache(maxsize=256)
def _plan_zoo(asked: _Asked) -> ModelInfo:
    recipe = asked.recipe
    size = recipe["image_size"]
    counter = flop_counter()
    with on_meta() as device:
        module = _construct(recipe)
        assert isinstance(module, Backbone)
        chosen = _chosen(module, recipe["stages"])
        if recipe["pooled"] not in (None, module.head_name):
            raise ModelError("its pooled vector is what enters its classifier", where="pooled", fix="leave pooled out")
    if runs_unfilled(module, size):
        with unfilled() as device:
            module = cast(Backbone, _construct(recipe))
    try:
        with torch.no_grad(), counter:
            outputs = module.eval().taps(torch.zeros(IMAGES, 3, size, size, device=device), True, False)
    except RuntimeError as error:
        raise ModelError(f"it cannot run on 3x{size}x{size} images: {str(error).splitlines()[0]}") from error
    stages = outputs.stages if chosen is None else [outputs.stages[number] for number in chosen]
    return ModelInfo(
        name=recipe["model"],
        num_classes=recipe["num_classes"],
        pooled_dim=outputs.pooled.shape[1],
        stage_shapes=tuple(tuple(stage.shape[1:]) for stage in stages),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        flops=counter.get_total_flops() // IMAGES,
        linear_head=isinstance(module.get_submodule(module.head_name), nn.Linear),
    )
