"""ShuffleNet with 3 groups for 32x32 images (Zhang et al., CVPR 2018; CRD benchmark form: 1x1 stem, no max pooling).

Keys: conv1, bn1, layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2,conv3,bn3}, linear.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdray.models.blocks import Backbone, Collector, conv, global_pool, grow, init_cifar, run_stage, shuffle
from kdray.models.outputs import Outputs
from kdray.models.registry import register_model

PAPER = "Zhang et al., ShuffleNet, CVPR 2018; form of the CRD benchmark, ICLR 2020"
LAYOUT = "the ShuffleNetv1 (ShuffleV1) of HobbitLong/RepDistiller"
GROUPS = 3
STEM = 24
CHANNELS, BLOCKS = (240, 480, 960), (4, 8, 4)


class ShuffleUnit(nn.Module):
    """Grouped bottleneck; at stride 2 the pooled input is joined as further channels, else it is added."""

    def __init__(self, in_channels: int, channels: int, stride: int, first_groups: int) -> None:
        super().__init__()
        own = channels - in_channels if stride == 2 else channels
        inner = own // 4
        self.stride, self.groups = stride, first_groups
        self.conv1 = conv(in_channels, inner, 1, groups=first_groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride=stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, own, 1, groups=GROUPS)
        self.bn3 = nn.BatchNorm2d(own)

    def preact(self, x: Tensor) -> Tensor:
        out = shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        if self.stride == 2:
            return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], 1)
        return out + x

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.preact(x))


class CifarShuffleNetV1(Backbone):
    """Stages: the maps after layer1, layer2, layer3 (16, 8, 4 wide at 32x32 images)."""

    head_name = "linear"

    def __init__(self, stem: int, channels: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv(3, stem, 1)
        self.bn1 = nn.BatchNorm2d(stem)
        in_channels = stem
        for number, (width, blocks) in enumerate(zip(channels, BLOCKS, strict=True), start=1):
            # The very first 1x1 convolution sees too few channels to be grouped (section 3.2 of the paper).
            first = ShuffleUnit(in_channels, width, 2, 1 if number == 1 else GROUPS)
            rest = [ShuffleUnit(width, width, 1, GROUPS) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            in_channels = width
        self.linear = nn.Linear(channels[-1], num_classes)
        init_cifar(self)

    def taps(self, images: Tensor, stages: bool, preact: bool) -> Outputs:
        kept = Collector(stages, preact)
        x = F.relu(self.bn1(self.conv1(images)))
        for layer in (self.layer1, self.layer2, self.layer3):
            x = kept.keep(*run_stage(layer, x))  # type: ignore[arg-type]
        return kept.finish(self.linear, global_pool(x))


@register_model("shufflenetv1", alias="ShuffleV1", source=PAPER, layout=LAYOUT)
def cifar_shufflenetv1(num_classes: int, *, width: float = 1.0) -> nn.Module:
    """Build one; `width` scales every channel count (to multiples that 3 groups of a quarter divide)."""
    multiple = 4 * GROUPS
    channels = tuple(grow(base, width, 2 * multiple) for base in CHANNELS)
    return CifarShuffleNetV1(grow(STEM, width, multiple), channels, num_classes)
