"""Wide ResNets for 32x32 images (Zagoruyko and Komodakis, BMVC 2016): wrn_DEPTH_WIDENING, 6n+4 layers, no dropout.

A pre-activation network: a group ends in a plain sum, and the batch norm and ReLU that belong to it stand at the head
of the next group. Keys: conv1, block{1,2,3}.layer.{i}.{bn1,conv1,bn2,conv2,convShortcut}, bn1, fc.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from kdray.models.blocks import Backbone, Collector, conv, global_pool, grow, init_cifar
from kdray.models.outputs import Outputs
from kdray.models.registry import register_model

PAPER = "Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016"
LAYOUT = "the wrn of HobbitLong/RepDistiller"


class PreactBlock(nn.Module):
    """BN-ReLU-conv twice; the shortcut of a block that widens is taken after the first BN-ReLU, else before it."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv(in_channels, channels, 3, stride=stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3)
        same = stride == 1 and in_channels == channels
        self.convShortcut = None if same else conv(in_channels, channels, 1, stride=stride)

    def add(self, x: Tensor, active: Tensor) -> Tensor:
        """The block on `x`, given ReLU(bn1(x)) as `active`."""
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, F.relu(self.bn1(x)))


class Group(nn.Module):
    """The blocks of one resolution."""

    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        rest = [PreactBlock(channels, channels, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(PreactBlock(in_channels, channels, stride), *rest)

    @property
    def first(self) -> PreactBlock:
        return cast(PreactBlock, self.layer[0])

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        x = self.first.add(x, active)
        for block in self.layer[1:]:
            x = block(x)
        return x


class WideResNet(Backbone):
    """Stages: the three groups' maps after their BN and ReLU (32, 16, 8 wide at 32x32 images); preact: after the BN.

    The published attention-transfer code taps the sum itself; here every stage of every network is an activated map.
    """

    head_name = "fc"
    stage_names = ("block1", "block2", "block3")

    def __init__(self, depth: int, channels: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"a wide ResNet has 6n+4 layers, not {depth}")
        stem, *widths = channels
        self.conv1 = conv(3, stem, 3)
        self.block1 = Group(stem, widths[0], blocks, 1)
        self.block2 = Group(widths[0], widths[1], blocks, 2)
        self.block3 = Group(widths[1], widths[2], blocks, 2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        init_cifar(self)
        nn.init.zeros_(self.fc.bias)

    def taps(self, images: Tensor, stages: bool, preact: bool) -> Outputs:
        kept = Collector(stages, preact)
        x = self.conv1(images)
        active = F.relu(self.block1.first.bn1(x))
        norms = (self.block2.first.bn1, self.block3.first.bn1, self.bn1)
        # Each norm runs once: its result is the stage here and the input of the next group.
        for group, norm in zip((self.block1, self.block2, self.block3), norms, strict=True):
            x = group(x, active)
            pre = norm(x)
            active = kept.keep(F.relu(pre), pre)
        return kept.finish(self.fc, global_pool(active))


@register_model("wrn_16_1", source=PAPER, layout=LAYOUT, depth=16, widening=1)
@register_model("wrn_16_2", source=PAPER, layout=LAYOUT, depth=16, widening=2)
@register_model("wrn_40_1", source=PAPER, layout=LAYOUT, depth=40, widening=1)
@register_model("wrn_40_2", source=PAPER, layout=LAYOUT, depth=40, widening=2)
def wide_resnet(num_classes: int, *, depth: int, widening: int, width: float = 1.0) -> nn.Module:
    """Build one; `width` scales every channel count, the stem's too."""
    channels = (16, 16 * widening, 32 * widening, 64 * widening)
    return WideResNet(depth, tuple(grow(base, width) for base in channels), num_classes)
