"""MobileNetV2 at half width for 32x32 images (Sandler et al., CVPR 2018; CRD benchmark form).

Expansion 6, stem stride 2, the 24-channel stage keeps its resolution, last convolution always 1280 wide.
Keys: conv1.{0,1}, blocks.{stage}.{i}.conv.{0,1,3,4,6,7}, conv2.{0,1}, classifier.0.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdray.models.blocks import Backbone, Collector, conv, global_pool, grow, init_cifar
from kdray.models.outputs import Outputs
from kdray.models.registry import register_model

PAPER = "Sandler et al., MobileNetV2, CVPR 2018; half width as in the CRD benchmark, ICLR 2020"
LAYOUT = "the mobilenetv2 (mobile_half) of HobbitLong/RepDistiller"
# expansion, channels at width 1, blocks, stride of the first block
SETTING = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
TAPPED = (1, 2, 4, 6)  # groups of blocks after which the resolution changes (or the trunk ends)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project back linearly; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            *_conv_bn_relu(in_channels, inner, 1),
            *_conv_bn_relu(inner, inner, 3, stride=stride, groups=inner),
            conv(inner, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class CifarMobileNetV2(Backbone):
    """Stages: the bottlenecks' maps at 16, 8, 4, 2 wide (32x32 images).

    They are linear, so `preact` gives the same tensors.
    """

    head_name = "classifier.0"
    stage_names = tuple(f"blocks.{number}" for number in TAPPED)

    def __init__(self, width: float, num_classes: int) -> None:
        super().__init__()
        channels = grow(32, width)
        self.conv1 = nn.Sequential(*_conv_bn_relu(3, channels, 3, stride=2))
        self.blocks = nn.ModuleList()
        for expansion, base, count, first_stride in SETTING:
            group = nn.Sequential()
            for number in range(count):
                out = grow(base, width)
                group.append(InvertedResidual(channels, out, first_stride if number == 0 else 1, expansion))
                channels = out
            self.blocks.append(group)
        # The published half-width network keeps all 1280; only thinner ones (smoke runs) shrink it.
        last = grow(1280, max(1.0, width) if width >= 0.5 else 2 * width)
        self.conv2 = nn.Sequential(*_conv_bn_relu(channels, last, 1))
        self.classifier = nn.Sequential(nn.Linear(last, num_classes))
        init_cifar(self)
        head = self.get_submodule("classifier.0")
        nn.init.normal_(head.weight, 0, 0.01)  # type: ignore[arg-type]
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def taps(self, images: Tensor, stages: bool, preact: bool) -> Outputs:
        kept = Collector(stages, preact)
        x = self.conv1(images)
        for number, group in enumerate(self.blocks):
            x = group(x)
            if number in TAPPED:
                kept.keep(x, x)
        return kept.finish(self.classifier[0], global_pool(self.conv2(x)))


def _conv_bn_relu(in_channels: int, channels: int, kernel: int, **options: int) -> list[nn.Module]:
    return [conv(in_channels, channels, kernel, **options), nn.BatchNorm2d(channels), nn.ReLU()]


@register_model("mobilenetv2", alias="MobileNetV2", source=PAPER, layout=LAYOUT)
def cifar_mobilenetv2(num_classes: int, *, width: float = 1.0) -> nn.Module:
    """Build the half-width network; `width` scales it further (1 is the published half)."""
    return CifarMobileNetV2(0.5 * width if isinstance(width, (int, float)) else width, num_classes)
