"""ResNets for 32x32 images (He et al., CVPR 2016, section 4.2), with projection shortcuts.

6n+2 layers in three stages; the x4 networks of the CRD benchmark (ICLR 2020) are four times as wide with a 32-channel
stem. State dict keys are those of the public checkpoints: conv1, bn1, layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2,
downsample.0,downsample.1}, fc.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdray.models.blocks import Backbone, Collector, conv, global_pool, grow, init_cifar, projection, run_stage
from kdray.models.outputs import Outputs
from kdray.models.registry import register_model

NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
PAPER = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
BENCHMARK = "Tian et al., Contrastive Representation Distillation, ICLR 2020"
LAYOUT = "chenyaofo/pytorch-cifar-models cifar100_resnet* and the resnet of HobbitLong/RepDistiller"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; `preact` is the sum before the last ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride=stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        same = stride == 1 and in_channels == channels
        self.downsample = None if same else projection(in_channels, channels, stride)

    def preact(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.preact(x))


class CifarResNet(Backbone):
    """Stages: the maps after layer1, layer2, layer3 (at 32x32 images: 32, 16, 8 wide); pooled: their mean."""

    head_name = "fc"

    def __init__(self, depth: int, channels: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"a CIFAR ResNet has 6n+2 layers, not {depth}")
        stem, *widths = channels
        self.conv1 = conv(3, stem, 3)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _layer(stem, widths[0], blocks, 1)
        self.layer2 = _layer(widths[0], widths[1], blocks, 2)
        self.layer3 = _layer(widths[1], widths[2], blocks, 2)
        self.fc = nn.Linear(widths[2], num_classes)
        init_cifar(self)

    def taps(self, images: Tensor, stages: bool, preact: bool) -> Outputs:
        kept = Collector(stages, preact)
        x = F.relu(self.bn1(self.conv1(images)))
        for layer in (self.layer1, self.layer2, self.layer3):
            x = kept.keep(*run_stage(layer, x))
        return kept.finish(self.fc, global_pool(x))


def _layer(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(channels, channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(in_channels, channels, stride), *rest)


@register_model("resnet8", source=PAPER, layout=LAYOUT, depth=8, channels=NARROW)
@register_model("resnet14", source=PAPER, layout=LAYOUT, depth=14, channels=NARROW)
@register_model("resnet20", source=PAPER, layout=LAYOUT, depth=20, channels=NARROW)
@register_model("resnet32", source=PAPER, layout=LAYOUT, depth=32, channels=NARROW)
@register_model("resnet44", source=PAPER, layout=LAYOUT, depth=44, channels=NARROW)
@register_model("resnet56", source=PAPER, layout=LAYOUT, depth=56, channels=NARROW)
@register_model("resnet110", source=PAPER, layout=LAYOUT, depth=110, channels=NARROW)
@register_model("resnet8x4", source=BENCHMARK, layout=LAYOUT, depth=8, channels=WIDE)
@register_model("resnet32x4", source=BENCHMARK, layout=LAYOUT, depth=32, channels=WIDE)
def cifar_resnet(num_classes: int, *, depth: int, channels: tuple[int, ...], width: float = 1.0) -> nn.Module:
    """Build one; `width` scales every channel count."""
    return CifarResNet(depth, tuple(grow(base, width) for base in channels), num_classes)
