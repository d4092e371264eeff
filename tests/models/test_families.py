"""Each CIFAR family against its description, recomputed from the state dict with nothing but functional calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from .conftest import images

State = dict[str, Tensor]


def conv(w: State, key: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    kernel = w[f"{key}.weight"]
    return F.conv2d(x, kernel, w.get(f"{key}.bias"), stride, kernel.shape[-1] // 2, 1, groups)


def bn(w: State, key: str, x: Tensor) -> Tensor:
    mean, var = w[f"{key}.running_mean"], w[f"{key}.running_var"]
    return F.batch_norm(x, mean, var, w[f"{key}.weight"], w[f"{key}.bias"])


def head(w: State, key: str, x: Tensor) -> Tensor:
    return x.mean((2, 3)) @ w[f"{key}.weight"].T + w[f"{key}.bias"]


def resnet(w: State, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    x, stages = bn(w, "bn1", conv(w, "conv1", x)).relu(), []
    for stage in (1, 2, 3):
        for block in range(len({k.split(".")[1] for k in w if k.startswith(f"layer{stage}.")})):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = bn(w, f"{at}.bn1", conv(w, f"{at}.conv1", x, stride)).relu()
            y = bn(w, f"{at}.bn2", conv(w, f"{at}.conv2", y))
            if f"{at}.downsample.0.weight" in w:
                x = bn(w, f"{at}.downsample.1", conv(w, f"{at}.downsample.0", x, stride))
            x = (x + y).relu()
        stages.append(x)
    return head(w, "fc", x), stages


def resnet50(w: State, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    x, stages = bn(w, "bn1", conv(w, "conv1", x)).relu(), []
    for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = bn(w, f"{at}.bn1", conv(w, f"{at}.conv1", x)).relu()
            y = bn(w, f"{at}.bn2", conv(w, f"{at}.conv2", y, stride)).relu()
            y = bn(w, f"{at}.bn3", conv(w, f"{at}.conv3", y))
            if block == 0:
                x = bn(w, f"{at}.shortcut.1", conv(w, f"{at}.shortcut.0", x, stride))
            x = (x + y).relu()
        stages.append(x)
    return head(w, "linear", x), stages


def wrn(w: State, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    x, stages = conv(w, "conv1", x), []
    for group in (1, 2, 3):
        for block in range(len({k.split(".")[2] for k in w if k.startswith(f"block{group}.")})):
            at = f"block{group}.layer.{block}"
            stride = 2 if group > 1 and block == 0 else 1
            active = bn(w, f"{at}.bn1", x).relu()
            if f"{at}.convShortcut.weight" in w:
                x = conv(w, f"{at}.convShortcut", active, stride)
            y = bn(w, f"{at}.bn2", conv(w, f"{at}.conv1", active, stride)).relu()
            x = x + conv(w, f"{at}.conv2", y)
        following = "bn1" if group == 3 else f"block{group + 1}.layer.0.bn1"
        stages.append(bn(w, following, x).relu())
    return head(w, "fc", stages[-1]), stages


def vgg(w: State, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    stages = []
    for block in range(5):
        for layer in sorted({int(k.split(".")[1]) for k in w if k.startswith(f"block{block}.")})[::2]:
            x = bn(w, f"block{block}.{layer + 1}", conv(w, f"block{block}.{layer}", x)).relu()
        stages.append(x)
        x = F.max_pool2d(x, 2) if block < 3 else x
    return head(w, "classifier", x), stages


def mobilenetv1(w: State, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    x, stages = bn(w, "model.0.1", conv(w, "model.0.0", x, 2)).relu(), []
    for layer in range(1, 14):
        at = f"model.{layer}"
        x = bn(w, f"{at}.1", conv(w, f"{at}.0", x, 2 if layer in (2, 4, 6, 12) else 1, x.shape[1])).relu()
        x = bn(w, f"{at}.4", conv(w, f"{at}.3", x)).relu()
        if layer in (3, 5, 11, 13):
            stages.append(x)
    return head(w, "fc", x), stages


def mobilenetv2(w: State, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    x, stages = bn(w, "conv1.1", conv(w, "conv1.0", x, 2)).relu(), []
    for group, (blocks, stride) in enumerate(((1, 1), (2, 1), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1))):
        for block in range(blocks):
            at = f"blocks.{group}.{block}.conv"
            step = stride if block == 0 else 1
            y = bn(w, f"{at}.1", conv(w, f"{at}.0", x)).relu()
            y = bn(w, f"{at}.4", conv(w, f"{at}.3", y, step, groups=y.shape[1])).relu()
            y = bn(w, f"{at}.7", conv(w, f"{at}.6", y))
            x = x + y if x.shape == y.shape and step == 1 else y
        if group in (1, 2, 4, 6):
            stages.append(x)
    return head(w, "classifier.0", bn(w, "conv2.1", conv(w, "conv2.0", x)).relu()), stages


def mixed(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle by picking: output channel c comes from group c % groups."""
    size = x.shape[1] // groups
    return x[:, [(c % groups) * size + c // groups for c in range(x.shape[1])]]


def shufflenetv1(w: State, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    x, stages = bn(w, "bn1", conv(w, "conv1", x)).relu(), []
    for stage, blocks in ((1, 4), (2, 8), (3, 4)):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            groups = 1 if stage == 1 and block == 0 else 3
            y = mixed(bn(w, f"{at}.bn1", conv(w, f"{at}.conv1", x, groups=groups)).relu(), groups)
            y = bn(w, f"{at}.bn2", conv(w, f"{at}.conv2", y, 2 if block == 0 else 1, y.shape[1])).relu()
            y = bn(w, f"{at}.bn3", conv(w, f"{at}.conv3", y, groups=3))
            x = torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1).relu() if block == 0 else (x + y).relu()
        stages.append(x)
    return head(w, "linear", x), stages


def shufflenetv2(w: State, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    x, stages = bn(w, "bn1", conv(w, "conv1", x)).relu(), []
    for stage, blocks in ((1, 4), (2, 8), (3, 4)):
        at = f"layer{stage}.0"
        left = bn(w, f"{at}.bn1", conv(w, f"{at}.conv1", x, 2, x.shape[1]))
        left = bn(w, f"{at}.bn2", conv(w, f"{at}.conv2", left)).relu()
        right = bn(w, f"{at}.bn3", conv(w, f"{at}.conv3", x)).relu()
        right = bn(w, f"{at}.bn4", conv(w, f"{at}.conv4", right, 2, right.shape[1]))
        right = bn(w, f"{at}.bn5", conv(w, f"{at}.conv5", right)).relu()
        x = mixed(torch.cat([left, right], 1), 2)
        for block in range(1, blocks):
            at = f"layer{stage}.{block}"
            left, right = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
            right = bn(w, f"{at}.bn1", conv(w, f"{at}.conv1", right)).relu()
            right = bn(w, f"{at}.bn2", conv(w, f"{at}.conv2", right, 1, right.shape[1]))
            right = bn(w, f"{at}.bn3", conv(w, f"{at}.conv3", right)).relu()
            x = mixed(torch.cat([left, right], 1), 2)
        stages.append(x)
    return head(w, "linear", bn(w, "bn2", conv(w, "conv2", x)).relu()), stages


@pytest.mark.parametrize(
    ("name", "recompute"),
    [
        ("resnet14", resnet),
        ("resnet8x4", resnet),
        ("resnet50_cifar", resnet50),
        ("wrn_16_1", wrn),
        ("wrn_16_2", wrn),
        ("vgg8", vgg),
        ("vgg16", vgg),
        ("mobilenetv1", mobilenetv1),
        ("mobilenetv2", mobilenetv2),
        ("shufflenetv1", shufflenetv1),
        ("shufflenetv2", shufflenetv2),
    ],
)
def test_logits_and_stages_by_hand(name: str, recompute: Callable, make) -> None:
    net = make(name, params={"width": 0.5})
    with torch.no_grad():
        out = net(images(), stages=True)
        logits, stages = recompute(net.backbone.state_dict(), images())
    torch.testing.assert_close(out.logits, logits, rtol=1e-4, atol=1e-4)
    assert len(stages) == len(out.stages)
    for got, wanted in zip(out.stages, stages, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_resnet_keys_are_those_of_the_public_checkpoints(make) -> None:
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    expected = ["conv1.weight", *(f"bn1.{part}" for part in norm), "fc.weight", "fc.bias"]
    for stage in (1, 2, 3):
        for block in range(3):
            at = f"layer{stage}.{block}"
            expected += [f"{at}.conv1.weight", f"{at}.conv2.weight"]
            expected += [f"{at}.{bn}.{part}" for bn in ("bn1", "bn2") for part in norm]
            if stage > 1 and block == 0:
                expected += [f"{at}.downsample.0.weight", *(f"{at}.downsample.1.{part}" for part in norm)]
    assert sorted(make("resnet20", 100, warm=False).backbone.state_dict()) == sorted(expected)


def test_batch_norm_statistics_move_once_per_forward_with_and_without_taps(make) -> None:
    for name in ("wrn_16_1", "vgg8", "shufflenetv2"):
        plain, tapped = (make(name, params={"width": 0.25}).train() for _ in range(2))
        plain(images(4)), tapped(images(4), stages=True, preact=True)
        for (key, a), b in zip(plain.state_dict().items(), tapped.state_dict().values(), strict=True):
            assert torch.equal(a, b), key
