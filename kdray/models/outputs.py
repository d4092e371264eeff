"""What every network gives: one forward yields logits, the pooled vector and the feature maps of its stages.

`Net` wraps a plain module (`.backbone`, which is what gets saved and exported) and knows nothing of distillation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor, nn


@dataclass
class Outputs:
    """One forward of a network.

    Attributes:
        logits: `[n, C]`, or None for a network without a classifier.
        pooled: `[n, d]`, the vector that enters the last Linear (the penultimate feature of the literature).
        stages: feature maps `[n, C_l, H_l, W_l]`, shallow to deep, after the stage's activation; [] unless asked for.
        preact: the same maps before that activation; [] unless asked for. A stage without a final activation (a linear
            bottleneck) stands here as it is.
    """

    logits: Tensor | None
    pooled: Tensor
    stages: list[Tensor] = field(default_factory=list)
    preact: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a network before any of it is allocated.

    Attributes:
        name: as in the experiment file, such as `resnet20` or `torchvision/resnet18`.
        num_classes: width of the logits, None without a classifier.
        pooled_dim: d of the pooled vector.
        stage_shapes: `(C, H, W)` of every stage, shallow to deep.
        parameters: number of trainable and frozen parameters (buffers not counted).
        flops: floating point operations of one image's forward, a multiply-add counted as 2; None when not counted.
        linear_head: whether the logits are exactly one Linear on the pooled vector.
    """

    name: str
    num_classes: int | None
    pooled_dim: int
    stage_shapes: tuple[tuple[int, ...], ...] = ()
    parameters: int = 0
    flops: int | None = None
    linear_head: bool = True


class Tapped(Protocol):
    """A backbone that hands out its own features: all networks of the CIFAR zoo."""

    head_name: str

    def taps(self, images: Tensor, stages: bool, preact: bool) -> Outputs: ...


class Net(nn.Module):
    """A network with the house's one forward.

    Args:
        backbone: a module that implements `Tapped`; its own `forward` gives plain logits.
        info: what `describe` says of it.
    """

    def __init__(self, backbone: nn.Module, info: ModelInfo) -> None:
        super().__init__()
        self.backbone = backbone
        self.info = info

    def forward(self, images: Tensor, stages: bool = False, preact: bool = False) -> Outputs:
        """Run `images` (float `[n, 3, H, W]`, normalised); feature maps are kept only when asked for."""
        return cast(Tapped, self.backbone).taps(images, stages, preact)

    @property
    def classifier(self) -> nn.Linear | None:
        """The Linear that turns `pooled` into `logits`, or None when the head is anything else."""
        if not self.info.linear_head:
            return None
        return cast(nn.Linear, self.backbone.get_submodule(cast(Tapped, self.backbone).head_name))


def grow(base: int, width: float, multiple: int = 1) -> int:
    """Return `base` channels times `width`, rounded to a multiple of `multiple`, at least one multiple."""
    return max(multiple, round(base * width / multiple) * multiple)


def init_cifar(module: nn.Module) -> None:
    """Initialise as the CIFAR literature does: He normal (fan out) convolutions, unit batch norm."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def global_pool(maps: Tensor) -> Tensor:
    """Average `[n, C, H, W]` over positions to `[n, C]`; keeps any memory format cheap."""
    return torch.flatten(nn.functional.adaptive_avg_pool2d(maps, 1), 1)
