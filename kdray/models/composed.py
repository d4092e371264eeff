"""A student that ends in another network's classifier: its backbone, a projector, and that classifier.

What SimKD (Chen et al., CVPR 2022) deploys. `build` knows it as the model `composed`, so that an export loads again
wherever this project is: its recipe holds the student's own recipe and the widths of what was put behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdray.errors import ModelError, nearest
from kdray.models.outputs import ModelInfo, Net, Outputs

NAME = "composed"
STUDENT_KEYS = ("model", "params", "stages", "pooled")
PARAMS = ("student", "channels", "side", "factor")


class Conv(nn.Conv2d):
    """A convolution without bias that follows its input's dtype, as the heads of objectives do."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.to(x.dtype), padding=self.padding)


class Projector(nn.Sequential):
    """[n, C_in, H, W] -> [n, C_out, H, W]: 1x1, 3x3 and 1x1 convolutions, each with batch norm and ReLU, through
    C_out / factor channels."""

    def __init__(
        self, in_channels: int, out_channels: int, factor: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    ) -> None:
        middle = middle_channels(out_channels, factor)
        widths = [(in_channels, middle, 1), (middle, middle, 3), (middle, out_channels, 1)]
        super().__init__(*(layer for one in widths for layer in (Conv(*one), norm(one[1]), nn.ReLU())))


def middle_channels(channels: int, factor: int) -> int:
    """Width of the projector's inside."""
    return max(1, channels // factor)


def fit(maps: Tensor, side: int) -> Tensor:
    """`maps` [n, C, H, W] averaged down to side x side where they are larger."""
    return F.adaptive_avg_pool2d(maps, side) if maps.shape[-1] > side else maps


class Composed(nn.Module):
    """Logits of `classifier` on the mean of the student's projected last map.

    The student stays a `Net`, for its stages may be tapped by hooks; its own classifier is kept and not used. The
    modules are shared with whoever passes them: training them trains this.
    """

    head_name = "classifier"
    stage_names: tuple[str, ...] = ()

    def __init__(self, student: Net, projector: Projector, classifier: nn.Linear, side: int) -> None:
        super().__init__()
        self.student = student
        self.projector = projector
        self.classifier = classifier
        self.side = side

    def taps(self, images: Tensor, stages: bool, preact: bool) -> Outputs:
        outputs = self.student(images, stages=True, preact=preact)
        pooled = self.projector(fit(outputs.stages[-1], self.side)).mean(dim=(2, 3))
        return Outputs(self.classifier(pooled), pooled, outputs.stages if stages else [], outputs.preact)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.taps(images, False, False).logits
        assert logits is not None
        return logits


@dataclass(frozen=True)
class Shape:
    """What is put behind the student: `channels` of the projected map, the largest `side` that it is made at, and the
    projector's `factor`."""

    channels: int
    side: int
    factor: int


def compose(student: Net, projector: Projector, classifier: nn.Linear, shape: Shape) -> Net:
    """The student, `projector` and `classifier` as one network that shares all their parameters.

    Raises ModelError when the student carries no recipe.
    """
    if not student.recipe:
        raise ModelError(f"{student.info.name} carries no recipe", fix="build it with kdray.models.build")
    recipe = {
        "model": NAME,
        "params": {"student": {key: student.recipe[key] for key in STUDENT_KEYS}, **vars(shape)},
        "stages": None,
        "pooled": None,
        "num_classes": student.recipe["num_classes"],
        "image_size": student.recipe["image_size"],
    }
    info = composed_info(student.info, shape, classifier.out_features)
    return Net(Composed(student, projector, classifier, shape.side), info, recipe)


def composed_info(student: ModelInfo, shape: Shape, classes: int) -> ModelInfo:
    """What is known of the composed network; all parameters count, those of the student's unused classifier too."""
    if not student.stage_shapes:
        raise ModelError(f"{student.name} hands out no feature map to project", where="stages", fix="name its stages")
    width, side = student.stage_shapes[-1][0], min(student.stage_shapes[-1][-1], shape.side)
    middle = middle_channels(shape.channels, shape.factor)
    convolutions = width * middle + 9 * middle * middle + middle * shape.channels
    head = shape.channels * classes
    flops = None if student.flops is None else student.flops + 2 * (convolutions * side * side + head)
    return ModelInfo(
        name=NAME,
        num_classes=classes,
        pooled_dim=shape.channels,
        stage_shapes=student.stage_shapes,
        parameters=student.parameters + convolutions + 2 * (2 * middle + shape.channels) + head + classes,
        flops=flops,
        linear_head=True,
        preact=student.preact,
    )


@dataclass(frozen=True)
class StudentSpec:
    """The student inside, as `build` reads a spec."""

    model: str
    params: Mapping[str, Any]
    stages: list[str] | None
    pooled: str | None


def read_params(spec: Any) -> tuple[StudentSpec, Shape]:
    """The student's spec and what stands behind it, from `spec.params` of a recipe.

    Raises ModelError when a key is missing, unknown or of the wrong kind.
    """
    params = dict(getattr(spec, "params", None) or {})
    fix = "take it from an exported card: it holds student, channels, side and factor"
    for key in params:
        if key not in PARAMS:
            raise ModelError(f"{NAME} knows no parameter {key!r}{nearest(key, PARAMS)}", where="params", fix=fix)
    missing = [key for key in PARAMS if key not in params]
    if missing:
        raise ModelError(f"{NAME} needs {', '.join(missing)}", where="params", fix=fix)
    for key in PARAMS[1:]:
        if isinstance(params[key], bool) or not isinstance(params[key], int) or params[key] < 1:
            raise ModelError(f"{params[key]!r} is no whole number above 0", where=f"params.{key}", fix=fix)
    student = params["student"]
    if not isinstance(student, Mapping) or "model" not in student or not set(student) <= set(STUDENT_KEYS):
        raise ModelError("it is not the spec of a network", where="params.student", fix=fix)
    if student["model"] == NAME:
        raise ModelError(f"a {NAME} network cannot stand in another", where="params.student.model")
    for key in ("stages", "pooled"):
        if getattr(spec, key, None) is not None:
            raise ModelError(f"{NAME} takes its stages from the student in it", where=key, fix="leave it out")
    inside = StudentSpec(student["model"], student.get("params") or {}, student.get("stages"), student.get("pooled"))
    return inside, Shape(*(params[key] for key in PARAMS[1:]))
