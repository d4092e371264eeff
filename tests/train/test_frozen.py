"""A folded teacher is the same function with fewer passes."""

import pytest
import torch
from torch import nn

from kdray.experiment import ModelSpec
from kdray.models.zoo import build
from kdray.train.frozen import fold_batch_norms


@pytest.mark.parametrize(
    ("model", "size", "folds"),
    [
        ("resnet8x4", 32, True),
        ("vgg8", 32, True),
        ("mobilenetv2", 32, True),
        ("wrn_16_1", 32, True),  # pre-activation: only the norms inside a block follow a convolution
        ("torchvision/resnet18", 64, True),
        ("torchvision/densenet121", 64, True),
    ],
)
def test_folding_changes_no_output(model: str, size: int, folds: bool) -> None:
    torch.manual_seed(0)
    net = build(ModelSpec(model=model), 10, size)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics and scales as after training, not the identity
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    net.eval().requires_grad_(False)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    folded = fold_batch_norms(net, size)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == norms  # the original stays whole
    assert (sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) < norms) == folds
    images = torch.randn(3, 3, size, size)
    a, b = net(images, stages=True), folded(images, stages=True)
    scale = a.logits.abs().max()
    assert (a.logits - b.logits).abs().max() <= 1e-3 * scale
    for x, y in zip(a.stages, b.stages, strict=True):
        assert (x - y).abs().max() <= 1e-3 * x.abs().max()


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec(model="torchvision/mnasnet0_5"),
        ModelSpec(model="torchvision/resnet18", stages=["bn1", "layer1.0.bn2", "layer4"]),
    ],
    ids=["default-stages", "named-stages"],
)
def test_a_norm_that_is_tapped_as_a_stage_stays(spec: ModelSpec) -> None:
    torch.manual_seed(0)
    net = build(spec, 10, 64).eval().requires_grad_(False)
    folded = fold_batch_norms(net, 64)
    images = torch.randn(2, 3, 64, 64)
    a, b = net(images, stages=True), folded(images, stages=True)
    assert len(a.stages) == len(b.stages)
    for x, y in zip(a.stages, b.stages, strict=True):
        assert (x - y).abs().max() <= 1e-3 * x.abs().max().clamp_min(1e-6)
