"""ResNet-50 for 32x32 images: bottleneck blocks 3-4-6-3 after a 3x3 stem without max pooling (CRD benchmark teacher).

Keys: conv1, bn1, layer{1..4}.{i}.{conv1,bn1,conv2,bn2,conv3,bn3,shortcut.0,shortcut.1}, linear.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdray.models.blocks import Backbone, Collector, conv, global_pool, grow, init_cifar, projection, run_stage
from kdray.models.outputs import Outputs
from kdray.models.registry import register_model

PAPER = "He et al., CVPR 2016; 32x32 form of the CRD benchmark, ICLR 2020"
LAYOUT = "the resnetv2 (ResNet50) of HobbitLong/RepDistiller"
BLOCKS, INNER, EXPANSION = (3, 4, 6, 3), (64, 128, 256, 512), 4


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions and a shortcut."""

    def __init__(self, in_channels: int, inner: int, stride: int) -> None:
        super().__init__()
        channels = EXPANSION * inner
        self.conv1 = conv(in_channels, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride=stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, channels, 1)
        self.bn3 = nn.BatchNorm2d(channels)
        same = stride == 1 and in_channels == channels
        self.shortcut = nn.Sequential() if same else projection(in_channels, channels, stride)

    def preact(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out)) + self.shortcut(x)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.preact(x))


class CifarResNet50(Backbone):
    """Stages: the maps after layer1..layer4 (32, 16, 8, 4 wide at 32x32 images)."""

    head_name = "linear"
    stage_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, stem: int, inner: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv(3, stem, 3)
        self.bn1 = nn.BatchNorm2d(stem)
        in_channels = stem
        for number, (width, blocks) in enumerate(zip(inner, BLOCKS, strict=True), start=1):
            first = Bottleneck(in_channels, width, 1 if number == 1 else 2)
            in_channels = EXPANSION * width
            rest = [Bottleneck(in_channels, width, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(in_channels, num_classes)
        init_cifar(self)

    def taps(self, images: Tensor, stages: bool, preact: bool) -> Outputs:
        kept = Collector(stages, preact)
        x = F.relu(self.bn1(self.conv1(images)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = kept.keep(*run_stage(layer, x))  # type: ignore[arg-type]
        return kept.finish(self.linear, global_pool(x))


@register_model("resnet50_cifar", alias="ResNet50", source=PAPER, layout=LAYOUT)
def cifar_resnet50(num_classes: int, *, width: float = 1.0) -> nn.Module:
    """Build one; `width` scales every channel count."""
    return CifarResNet50(grow(64, width), tuple(grow(base, width) for base in INNER), num_classes)
