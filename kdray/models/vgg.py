"""VGG with batch norm and one Linear for 32x32 images (Simonyan and Zisserman, ICLR 2015; CRD benchmark form).

Five blocks, halved by max pooling after the first three only, so the last two share a resolution; global average
pooling instead of the three fully connected layers. Keys: block{0..4}.{j} (conv with bias, batch norm), classifier.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from kdray.models.blocks import Backbone, Collector, global_pool, grow, init_cifar
from kdray.models.outputs import Outputs
from kdray.models.registry import register_model

PAPER = "Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015; form of the CRD benchmark, ICLR 2020"
LAYOUT = "the vgg (batch norm) of HobbitLong/RepDistiller"
CHANNELS = (64, 128, 256, 512, 512)


class CifarVGG(Backbone):
    """Stages: the five blocks' maps after their last ReLU (32, 16, 8, 4, 4 wide at 32x32 images)."""

    head_name = "classifier"
    stage_names = ("block0", "block1", "block2", "block3", "block4")

    def __init__(self, convolutions: tuple[int, ...], channels: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        edges = list(pairwise((3, *channels)))
        for number, (count, (in_channels, out_channels)) in enumerate(zip(convolutions, edges, strict=True)):
            self.add_module(f"block{number}", _block(in_channels, out_channels, count))
        self.classifier = nn.Linear(channels[-1], num_classes)
        init_cifar(self)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def taps(self, images: Tensor, stages: bool, preact: bool) -> Outputs:
        kept = Collector(stages, preact)
        x = images
        for number, name in enumerate(self.stage_names):
            pre = self.get_submodule(name)(x)
            x = kept.keep(F.relu(pre), pre)
            if number < 3:
                x = F.max_pool2d(x, 2)
        return kept.finish(self.classifier, global_pool(x))


def _block(in_channels: int, channels: int, convolutions: int) -> nn.Sequential:
    """Convolutions of one resolution; the last ReLU is left to the caller, who taps before and after it."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        in_channels = channels
    return nn.Sequential(*layers[:-1])


@register_model("vgg8", source=PAPER, layout=LAYOUT, convolutions=(1, 1, 1, 1, 1))
@register_model("vgg11", source=PAPER, layout=LAYOUT, convolutions=(1, 1, 2, 2, 2))
@register_model("vgg13", source=PAPER, layout=LAYOUT, convolutions=(2, 2, 2, 2, 2))
@register_model("vgg16", source=PAPER, layout=LAYOUT, convolutions=(2, 2, 3, 3, 3))
@register_model("vgg19", source=PAPER, layout=LAYOUT, convolutions=(2, 2, 4, 4, 4))
def cifar_vgg(num_classes: int, *, convolutions: tuple[int, ...], width: float = 1.0) -> nn.Module:
    """Build one; `width` scales every channel count."""
    return CifarVGG(convolutions, tuple(grow(base, width) for base in CHANNELS), num_classes)
