"""ShuffleNetV2 (size 1) for 32x32 images (Ma et al., ECCV 2018; CRD benchmark form: 1x1 stem, no max pooling).

Keys: conv1, bn1, layer{1,2,3}.0.{conv1..conv5,bn1..bn5}, layer{1,2,3}.{i}.{conv1..conv3,bn1..bn3}, conv2, bn2, linear.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdray.models.blocks import Backbone, Collector, conv, global_pool, grow, init_cifar, run_stage, shuffle
from kdray.models.outputs import Outputs
from kdray.models.registry import register_model

PAPER = "Ma et al., ShuffleNet V2, ECCV 2018; form of the CRD benchmark, ICLR 2020"
LAYOUT = "the ShuffleNetv2 (ShuffleV2) of HobbitLong/RepDistiller"
STEM, CHANNELS, LAST = 24, (116, 232, 464), 1024
BLOCKS = (3, 7, 3)  # after the block that halves the resolution


class SplitBlock(nn.Module):
    """Half of the channels pass through, half are filtered, then both are interleaved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv(half, half, 3, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)

    def preact(self, x: Tensor) -> Tensor:
        passed, x = x.chunk(2, 1)
        x = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return shuffle(torch.cat([passed, self.bn3(self.conv3(x))], 1), 2)

    def forward(self, x: Tensor) -> Tensor:
        # The half that passes through is a ReLU's result already, so one ReLU after the shuffle changes nothing in it.
        return F.relu(self.preact(x))


class DownBlock(nn.Module):
    """Both halves see all channels and halve the resolution."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv(in_channels, in_channels, 3, stride=2, groups=in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = conv(in_channels, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(in_channels, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv(half, half, 3, stride=2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        return F.relu(shuffle(torch.cat([left, self.bn5(self.conv5(right))], 1), 2))


class CifarShuffleNetV2(Backbone):
    """Stages: the maps after layer1, layer2, layer3 (16, 8, 4 wide at 32x32 images); pooled: the mean after conv2."""

    head_name = "linear"

    def __init__(self, stem: int, channels: tuple[int, ...], last: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv(3, stem, 1)
        self.bn1 = nn.BatchNorm2d(stem)
        in_channels = stem
        for number, (width, blocks) in enumerate(zip(channels, BLOCKS, strict=True), start=1):
            rest = [SplitBlock(width) for _ in range(blocks)]
            self.add_module(f"layer{number}", nn.Sequential(DownBlock(in_channels, width), *rest))
            in_channels = width
        self.conv2 = conv(in_channels, last, 1)
        self.bn2 = nn.BatchNorm2d(last)
        self.linear = nn.Linear(last, num_classes)
        init_cifar(self)

    def taps(self, images: Tensor, stages: bool, preact: bool) -> Outputs:
        kept = Collector(stages, preact)
        x = F.relu(self.bn1(self.conv1(images)))
        for layer in (self.layer1, self.layer2, self.layer3):
            x = kept.keep(*run_stage(layer, x))  # type: ignore[arg-type]
        x = F.relu(self.bn2(self.conv2(x)))
        return kept.finish(self.linear, global_pool(x))


@register_model("shufflenetv2", alias="ShuffleV2", source=PAPER, layout=LAYOUT)
def cifar_shufflenetv2(num_classes: int, *, width: float = 1.0) -> nn.Module:
    """Build one; `width` scales every channel count."""
    channels = tuple(grow(base, width, 2) for base in CHANNELS)
    return CifarShuffleNetV2(grow(STEM, width), channels, grow(LAST, width), num_classes)
