"""What the CIFAR families share: the tapped base class, a stage runner, initialisation, channel scaling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdray.errors import ModelError
from kdray.models.outputs import Outputs


class Collector:
    """Keeps the maps that were asked for, and no reference to any other (a forward without taps frees them early)."""

    def __init__(self, stages: bool, preact: bool) -> None:
        self.want_stages, self.want_preact = stages, preact
        self.stages: list[Tensor] = []
        self.preact: list[Tensor] = []

    def keep(self, post: Tensor, pre: Tensor) -> Tensor:
        """Note a stage `[n, C, H, W]` after and before its activation; returns the former."""
        if self.want_stages:
            self.stages.append(post)
        if self.want_preact:
            self.preact.append(pre)
        return post

    def finish(self, head: nn.Module, pooled: Tensor) -> Outputs:
        """Classify the pooled vector `[n, d]`, where the head was not taken off, and hand everything out."""
        logits = None if isinstance(head, nn.Identity) else head(pooled)
        return Outputs(logits, pooled, self.stages, self.preact)


class Backbone(nn.Module):
    """A plain network: calling it gives logits `[n, C]`, or the pooled vector where its head was taken off; `taps`
    gives the features too. Families fill in `taps`.

    `head_name` is the last Linear, `stage_names` the parts after which `taps` keeps a map.
    """

    head_name = "fc"
    stage_names: tuple[str, ...] = ("layer1", "layer2", "layer3")

    def taps(self, images: Tensor, stages: bool, preact: bool) -> Outputs:
        raise TypeError(f"{type(self).__name__} must define taps")

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.taps(images, False, False)
        return outputs.pooled if outputs.logits is None else outputs.logits


def run_stage(blocks: nn.Sequential, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Run a stage whose blocks have `preact(x)` and end in a ReLU; return its map after and before the last ReLU."""
    last = len(blocks) - 1
    for number, block in enumerate(blocks):
        if number == last:
            pre = cast(Callable[[Tensor], Tensor], block.preact)(maps)
            return F.relu(pre), pre
        maps = block(maps)
    raise ValueError("a stage needs at least one block")


def grow(base: int, width: float, multiple: int = 1) -> int:
    """Return `base` channels times `width`, rounded to a multiple of `multiple`, at least one multiple.

    Raises ModelError when `width` is not a number above 0.
    """
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width <= 64:
        raise ModelError(f"width: {width!r} is not a number above 0 and up to 64", fix="1 is the published network")
    return max(multiple, round(base * width / multiple) * multiple)


def conv(in_channels: int, out_channels: int, kernel: int, **options: Any) -> nn.Conv2d:
    """Convolution without bias that keeps the resolution at stride 1."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False, **options)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """1x1 convolution and batch norm for a shortcut that changes its shape (option B of the ResNet paper)."""
    return nn.Sequential(conv(in_channels, out_channels, 1, stride=stride), nn.BatchNorm2d(out_channels))


def shuffle(maps: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` groups: channel (g, c) becomes (c, g) (ShuffleNet, CVPR 2018)."""
    n, channels, height, width = maps.shape
    # Two spellings, one copy each: a channels_last map stays channels_last.
    if maps.is_contiguous(memory_format=torch.channels_last):
        last = maps.permute(0, 2, 3, 1).reshape(n, height, width, groups, channels // groups)
        return last.transpose(3, 4).reshape(n, height, width, channels).permute(0, 3, 1, 2)
    first = maps.reshape(n, groups, channels // groups, height, width)
    return first.transpose(1, 2).reshape(n, channels, height, width)


def global_pool(maps: Tensor) -> Tensor:
    """Average `[n, C, H, W]` over positions to `[n, C]`; keeps any memory format cheap."""
    return torch.flatten(F.adaptive_avg_pool2d(maps, 1), 1)


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
