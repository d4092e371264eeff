"""Every network of the CIFAR zoo against the published table: parameters at 100 classes, pooled width, stages."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from kdray.errors import ModelError
from kdray.models import Net, build, describe, list_models

from .conftest import Spec, images

# name: parameters at 100 classes, pooled width, (channels, side) of each stage at 32x32 images
TABLE = {
    "resnet8": (83_892, 64, [(16, 32), (32, 16), (64, 8)]),
    "resnet14": (181_108, 64, [(16, 32), (32, 16), (64, 8)]),
    "resnet20": (278_324, 64, [(16, 32), (32, 16), (64, 8)]),
    "resnet32": (472_756, 64, [(16, 32), (32, 16), (64, 8)]),
    "resnet44": (667_188, 64, [(16, 32), (32, 16), (64, 8)]),
    "resnet56": (861_620, 64, [(16, 32), (32, 16), (64, 8)]),
    "resnet110": (1_736_564, 64, [(16, 32), (32, 16), (64, 8)]),
    "resnet8x4": (1_233_540, 256, [(64, 32), (128, 16), (256, 8)]),
    "resnet32x4": (7_433_860, 256, [(64, 32), (128, 16), (256, 8)]),
    "resnet50_cifar": (23_705_252, 2048, [(256, 32), (512, 16), (1024, 8), (2048, 4)]),
    "wrn_16_1": (180_916, 64, [(16, 32), (32, 16), (64, 8)]),
    "wrn_16_2": (703_284, 128, [(32, 32), (64, 16), (128, 8)]),
    "wrn_40_1": (569_780, 64, [(16, 32), (32, 16), (64, 8)]),
    "wrn_40_2": (2_255_156, 128, [(32, 32), (64, 16), (128, 8)]),
    "vgg8": (3_965_028, 512, [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
    "vgg11": (9_277_284, 512, [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
    "vgg13": (9_462_180, 512, [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
    "vgg16": (14_774_436, 512, [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
    "vgg19": (20_086_692, 512, [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
    "mobilenetv1": (3_309_476, 1024, [(128, 8), (256, 4), (512, 2), (1024, 1)]),
    "mobilenetv2": (812_836, 1280, [(12, 16), (16, 8), (48, 4), (160, 2)]),
    "shufflenetv1": (949_258, 960, [(240, 16), (480, 8), (960, 4)]),
    "shufflenetv2": (1_355_528, 1024, [(116, 16), (232, 8), (464, 4)]),
}


def test_the_list_is_the_table() -> None:
    assert {row.name: row.parameters for row in list_models()} == {name: row[0] for name, row in TABLE.items()}
    assert [row.name for row in list_models()][2:6] == ["resnet8", "resnet8x4", "resnet14", "resnet20"]
    assert all(row.source for row in list_models())


@pytest.mark.parametrize("name", TABLE)
def test_a_real_forward_is_what_describe_says(name: str) -> None:
    parameters, width, stages = TABLE[name]
    info = describe(Spec(name), 100, 32)
    assert (info.name, info.num_classes, info.parameters, info.pooled_dim) == (name, 100, parameters, width)
    assert info.stage_shapes == tuple((channels, side, side) for channels, side in stages)
    assert info.linear_head and info.preact

    torch.manual_seed(0)
    net = build(Spec(name), 100, 32).eval()
    assert net.info == info
    assert sum(p.numel() for p in net.parameters()) == parameters
    with torch.no_grad():
        out = net(images(), stages=True, preact=True)
    assert out.logits is not None and out.logits.shape == (2, 100)
    assert out.pooled.shape == (2, width)
    assert [tuple(stage.shape) for stage in out.stages] == [(2, *shape) for shape in info.stage_shapes]
    assert [stage.shape for stage in out.preact] == [stage.shape for stage in out.stages]
    assert isinstance(net.classifier, nn.Linear)
    torch.testing.assert_close(net.classifier(out.pooled), out.logits)


def test_flops_count_a_multiply_add_as_two() -> None:
    # stem, 3 stages of 2n convolutions, 2 projections, classifier: multiply-adds by hand for n = 1
    stem, first = 27 * 16 * 32**2, 2 * 144 * 16 * 32**2
    second = (144 * 32 + 288 * 32 + 16 * 32) * 16**2
    third = (288 * 64 + 576 * 64 + 32 * 64) * 8**2
    assert describe(Spec("resnet8"), 10, 32).flops == 2 * (stem + first + second + third + 640)


FAMILIES = [
    "resnet8",
    "resnet50_cifar",
    "wrn_16_1",
    "vgg8",
    "mobilenetv1",
    "mobilenetv2",
    "shufflenetv1",
    "shufflenetv2",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_taps_do_not_change_the_logits_and_are_absent_unless_asked_for(name: str, make) -> None:
    net = make(name, params={"width": 0.25})
    with torch.no_grad():
        plain, full, pre = net(images()), net(images(), stages=True), net(images(), preact=True)
    assert plain.stages == [] and plain.preact == [] and full.preact == [] and pre.stages == []
    for other in (full, pre):
        assert torch.equal(plain.logits, other.logits) and torch.equal(plain.pooled, other.pooled)
    assert torch.equal(net.backbone(images()), plain.logits)
    linear = name == "mobilenetv2"
    for after, before in zip(full.stages, pre.preact, strict=True):
        assert torch.equal(after, before if linear else before.relu())
        assert linear or bool((before < 0).any())


@pytest.mark.parametrize(
    "name", ["resnet8", "wrn_16_1", "vgg8", "mobilenetv1", "mobilenetv2", "shufflenetv1", "shufflenetv2"]
)
def test_gradients_reach_every_parameter_from_logits_and_from_stages(name: str, make) -> None:
    net = make(name, params={"width": 0.25}).train()
    out = net(images(4), stages=True, preact=True)
    (out.logits.square().sum() + sum(stage.sum() for stage in out.stages + out.preact)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())
    silent = [key for key, p in net.named_parameters() if not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize(
    "name",
    ["resnet8", "wrn_16_1", "vgg8", "mobilenetv1", "mobilenetv2", "shufflenetv1", "shufflenetv2", "ResNet50"],
)
def test_memory_format_batch_of_one_and_bf16(name: str, make) -> None:
    net = make(name, params={"width": 0.25})
    reference = net(images(3), stages=True)
    net = net.to(memory_format=torch.channels_last)
    last = images(3).to(memory_format=torch.channels_last)
    with torch.no_grad():
        out = net(last, stages=True)
        one = net(last[:1])
        with torch.autocast("cpu", torch.bfloat16):
            half = net(last, stages=True)
    torch.testing.assert_close(out.logits, reference.logits, rtol=1e-4, atol=1e-4)
    for stage, plain in zip(out.stages, reference.stages, strict=True):
        assert stage.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(stage, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.logits, out.logits[:1], rtol=1e-4, atol=1e-4)
    assert half.logits.dtype == torch.bfloat16 and all(s.dtype == torch.bfloat16 for s in half.stages)
    torch.testing.assert_close(half.logits.float(), out.logits, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "shufflenetv2", "mobilenetv2", "vgg8"])
def test_other_image_sizes(name: str) -> None:
    for size in (8, 64):
        info = describe(Spec(name), 10, size)
        assert info.parameters == describe(Spec(name), 10, 32).parameters
        assert info.stage_shapes[0][1] in (size, size // 2)


def test_width_shrinks_and_grows() -> None:
    for name in FAMILIES:
        small, normal, big = (describe(Spec(name, {"width": w}), 10, 32) for w in (0.25, 1, 2))
        assert small.parameters < normal.parameters / 8 and big.parameters > 2 * normal.parameters
        assert len(small.stage_shapes) == len(normal.stage_shapes)


def test_describe_draws_no_random_numbers_and_build_follows_the_seed() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    describe(Spec("vgg8"), 10, 32)
    assert torch.equal(torch.rand(3), expected)
    nets = []
    for _ in range(2):
        torch.manual_seed(5)
        nets.append(build(Spec("resnet8"), 10, 32))
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_convolutions_start_as_he_normal_fan_out() -> None:
    torch.manual_seed(0)
    net = build(Spec("vgg8"), 10, 32)
    for name, layer in net.backbone.named_modules():
        if isinstance(layer, nn.Conv2d):
            std = (2 / (layer.out_channels * 9)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(std, rel=0.05), name
        if isinstance(layer, nn.BatchNorm2d):
            assert bool((layer.weight == 1).all()) and bool((layer.bias == 0).all())


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("ResNet50", "resnet50_cifar"),
        ("MobileNetV2", "mobilenetv2"),
        ("ShuffleV1", "shufflenetv1"),
        ("ShuffleV2", "shufflenetv2"),
    ],
)
def test_names_of_the_literature(alias: str, name: str) -> None:
    assert describe(Spec(alias), 100, 32) == describe(Spec(name), 100, 32)
    assert describe(Spec(alias), 100, 32).name == name


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Spec("resnet21"), ["unknown model 'resnet21'", "resnet20", "torchvision/NAME"]),
        (Spec("resnet18"), ["did you mean 'torchvision/resnet18'?"]),
        (Spec("resnet20", {"widht": 2}), ["no parameter 'widht'", "did you mean 'width'?", "it takes: width"]),
        (Spec("resnet20", {"depth": 20}), ["no parameter 'depth'"]),
        (Spec("resnet20", {"width": 0}), ["width: 0 is not a number above 0"]),
        (Spec("mobilenetv2", {"width": "half"}), ["width: 'half' is not a number above 0"]),
        (Spec("resnet20", pooled="layer1"), ["pooled", "what enters its classifier"]),
        (
            Spec("resnet20", stages=["layer7"]),
            ["no stage 'layer7'", "did you mean 'layer", "it has: layer1, layer2, layer3"],
        ),
    ],
)
def test_bad_specs_say_what_and_the_way_out(spec: Spec, said: list[str]) -> None:
    for function in (describe, build):
        with pytest.raises(ModelError) as caught:
            function(spec, 10, 32)
        assert all(part in str(caught.value) for part in said), str(caught.value)
        assert "\n" not in str(caught.value)


def test_images_that_are_too_small_and_no_classes() -> None:
    with pytest.raises(ModelError, match="model vgg8: it cannot run on 3x4x4 images"):
        describe(Spec("vgg8"), 10, 4)
    with pytest.raises(ModelError, match="resnet20 needs a number of classes"):
        describe(Spec("resnet20"), None, 32)


def test_stages_picks_among_the_declared_ones(make) -> None:
    net, whole = make("resnet8", stages=["layer3", "layer1"], pooled="fc"), make("resnet8")
    out, every = net(images(), stages=True, preact=True), whole(images(), stages=True, preact=True)
    assert net.info.stage_shapes == ((64, 8, 8), (16, 32, 32))
    for number, other in enumerate((2, 0)):
        assert torch.equal(out.stages[number], every.stages[other])
        assert torch.equal(out.preact[number], every.preact[other])
    assert net(images()).stages == [] and torch.equal(out.logits, every.logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_declared_stages_are_modules_of_the_network(name: str) -> None:
    shapes = describe(Spec(name), 10, 32).stage_shapes
    backbone = build(Spec(name), 10, 32).backbone
    for stage, shape in zip(backbone.stage_names, shapes, strict=True):
        assert describe(Spec(name, stages=[stage]), 10, 32).stage_shapes == (shape,)
        assert backbone.get_submodule(stage)


def test_a_copy_is_a_network_of_its_own(make) -> None:
    net: Net = make("wrn_16_1")
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert bool(twin(images()).logits.eq(0).all()) and not bool(net(images()).logits.eq(0).all())


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "shufflenetv1"])
def test_it_compiles_whole(name: str, make, caplog) -> None:
    caplog.set_level(logging.ERROR)
    net = make(name, params={"width": 0.25})
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    wanted, got = net(images(), stages=True, preact=True), compiled(images(), stages=True, preact=True)
    torch.testing.assert_close(got.logits, wanted.logits)
    for a, b in zip(got.stages + got.preact, wanted.stages + wanted.preact, strict=True):
        torch.testing.assert_close(a, b)


def test_mobilenetv1_is_the_published_size_on_imagenet() -> None:
    info = describe(Spec("mobilenetv1"), 1000, 224)
    assert (info.parameters, info.pooled_dim) == (4_231_976, 1024)
    assert info.stage_shapes == ((128, 56, 56), (256, 28, 28), (512, 14, 14), (1024, 7, 7))
    assert info.flops is not None and 1.13e9 < info.flops < 1.15e9  # 569 million multiply-adds in the paper
