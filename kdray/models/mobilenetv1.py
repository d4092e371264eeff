"""MobileNetV1 for ImageNet (Howard et al., arXiv 1704.04861): the student of the ResNet-50 pair of the literature.

A convolution and thirteen pairs of a depthwise and a pointwise one, stride 32 in all, 1024 channels at the end.
Keys: model.{0..13}.{0,1[,3,4]}, fc.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdray.models.blocks import Backbone, Collector, conv, global_pool, grow, init_cifar
from kdray.models.outputs import Outputs
from kdray.models.registry import register_model

PAPER = "Howard et al., MobileNets, arXiv 1704.04861; for ImageNet (4.23M parameters at 1000 classes)"
LAYOUT = "the MobileNet of megvii-research/mdistiller (ImageNet)"
# channels at width 1 and stride of each separable block
SETTING = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
TAPPED = (3, 5, 11, 13)  # layers that end a resolution: 56, 28, 14, 7 wide at 224


class MobileNetV1(Backbone):
    """Stages: the last map at 1/4, 1/8, 1/16 and 1/32 of the image's side."""

    stage_names = tuple(f"model.{number}" for number in TAPPED)

    def __init__(self, width: float, num_classes: int) -> None:
        super().__init__()
        channels = grow(32, width)
        self.model = nn.Sequential(nn.Sequential(*_conv_bn_relu(3, channels, 3, stride=2)))
        for base, stride in SETTING:
            out = grow(base, width)
            depthwise = _conv_bn_relu(channels, channels, 3, stride=stride, groups=channels)
            self.model.append(nn.Sequential(*depthwise, *_conv_bn_relu(channels, out, 1)))
            channels = out
        self.fc = nn.Linear(channels, num_classes)
        init_cifar(self)

    def taps(self, images: Tensor, stages: bool, preact: bool) -> Outputs:
        kept = Collector(stages, preact)
        x = images
        for number, layer in enumerate(self.model):
            if number in TAPPED:
                before = layer[:-1](x)  # type: ignore[index]
                x = kept.keep(layer[-1](before), before)  # type: ignore[index]
            else:
                x = layer(x)
        return kept.finish(self.fc, global_pool(x))


def _conv_bn_relu(in_channels: int, channels: int, kernel: int, **options: int) -> list[nn.Module]:
    return [conv(in_channels, channels, kernel, **options), nn.BatchNorm2d(channels), nn.ReLU()]


@register_model("mobilenetv1", alias="MobileNetV1", source=PAPER, layout=LAYOUT)
def mobilenetv1(num_classes: int, *, width: float = 1.0) -> nn.Module:
    """Build the network; `width` scales its channels."""
    return MobileNetV1(width, num_classes)
