"""Networks of torchvision, timm and the user: built by prefix, tapped by hooks, refused in one clear line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from kdray.errors import ModelError
from kdray.models import build, describe
from kdray.models.tapped import TappedNet

from .conftest import Spec, images

# name: image size, pooled width, stages (channels, side), parameters of the published 1000-class network
DESCRIBED = {
    "torchvision/resnet18": (224, 512, [(64, 56), (128, 28), (256, 14), (512, 7)], 11_689_512),
    "torchvision/resnet50": (32, 2048, [(256, 8), (512, 4), (1024, 2), (2048, 1)], 25_557_032),
    "torchvision/mobilenet_v2": (224, 1280, [(16, 112), (24, 56), (32, 28), (96, 14), (1280, 7)], 3_504_872),
    "torchvision/mobilenet_v3_small": (224, 1024, [(16, 112), (16, 56), (24, 28), (48, 14), (576, 7)], 2_542_856),
    "torchvision/vgg11_bn": (224, 4096, [(64, 224), (128, 112), (256, 56), (512, 28), (512, 14)], 132_868_840),
    "torchvision/densenet121": (224, 1024, [(64, 112), (256, 56), (512, 28), (1024, 14), (1024, 7)], 7_978_856),
    "torchvision/convnext_tiny": (224, 768, [(96, 56), (192, 28), (384, 14), (768, 7)], 28_589_128),
    "torchvision/efficientnet_b0": (224, 1280, [(16, 112), (24, 56), (40, 28), (112, 14), (1280, 7)], 5_288_548),
    "torchvision/vit_b_16": (224, 768, [(768, 14)] * 4, 86_567_656),
    "torchvision/swin_t": (224, 768, [(96, 56), (192, 28), (384, 14), (768, 7)], 28_288_354),
    "torchvision/googlenet": (224, 1024, [(64, 112), (192, 56), (480, 28), (832, 14), (1024, 7)], 6_624_904),
    "torchvision/inception_v3": (299, 2048, [(64, 147), (192, 71), (288, 35), (768, 17), (2048, 8)], 23_834_568),
    "timm/resnet18": (224, 512, [(64, 56), (128, 28), (256, 14), (512, 7)], 11_689_512),
    "timm/vit_tiny_patch16_224": (224, 192, [(192, 14)] * 4, 5_717_416),
    "timm/mixer_s32_224": (224, 512, [(512, 7)] * 4, 19_104_624),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_described_without_allocation(name: str) -> None:
    size, width, stages, parameters = DESCRIBED[name]
    info = describe(Spec(name), 1000, size)
    assert (info.name, info.num_classes, info.pooled_dim, info.parameters) == (name, 1000, width, parameters)
    assert info.stage_shapes == tuple((channels, side, side) for channels, side in stages)
    assert info.linear_head


def test_flops_are_twice_the_published_multiply_adds() -> None:
    for name in ("resnet18", "vit_b_16", "swin_t", "densenet121", "mobilenet_v2"):
        published = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]
        flops = describe(Spec(f"torchvision/{name}"), 1000, 224).flops
        assert flops is not None and flops / 2e9 == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("torchvision/resnet18", 64),
        ("torchvision/mobilenet_v3_small", 64),
        ("torchvision/densenet121", 64),
        ("torchvision/efficientnet_b0", 64),
        ("torchvision/googlenet", 64),
        ("torchvision/inception_v3", 80),
        ("timm/vit_tiny_patch16_224", 32),
        ("timm/resnet18", 64),
    ],
)
def test_the_plain_network_and_its_taps_agree(name: str, size: int, make) -> None:
    net = make(name, image_size=size, warm=False)
    x = images(2, size).to(memory_format=torch.channels_last)
    with torch.no_grad():
        plain, out, logits = net(x), net(x, stages=True), net.backbone(x)
    assert plain.stages == []
    assert torch.equal(plain.logits, logits) and torch.equal(out.logits, logits)
    assert isinstance(net.classifier, nn.Linear) and net.classifier.out_features == 10
    torch.testing.assert_close(net.classifier(out.pooled), logits)
    assert [tuple(stage.shape[1:]) for stage in out.stages] == list(net.info.stage_shapes)
    net.train()
    trained = net(x, stages=True)
    (trained.logits.sum() + sum(stage.square().mean() for stage in trained.stages)).backward()
    assert all(p.grad is not None for p in net.parameters()), "a part that never trains would stop distributed training"


def test_an_auxiliary_classifier_is_left_out_of_the_logits(make) -> None:
    net = make("torchvision/googlenet", image_size=64, params={"aux_logits": True}, warm=False)
    x = images(2, 64)
    torch.manual_seed(0)
    trained = net.train()(x)
    assert trained.logits.shape == (2, 10)
    torch.testing.assert_close(net.classifier(trained.pooled), trained.logits)


def test_a_head_that_is_no_linear(make) -> None:
    net = make("torchvision/squeezenet1_1", image_size=64, warm=False)
    out = net(images(2, 64), stages=True)
    assert net.classifier is None and net.head_name is None and not net.info.linear_head
    assert out.logits.shape == (2, 10) and out.pooled.shape == (2, 512)
    torch.testing.assert_close(out.pooled, out.stages[-1].mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_named_stages_and_pooled(make) -> None:
    net = make("torchvision/resnet18", stages=["relu", "layer2.0.bn1", "layer3"], pooled="layer4", warm=False)
    whole = make("torchvision/resnet18", warm=False)
    out, plain = net(images(), stages=True), whole(images(), stages=True)
    assert [stage.shape[1] for stage in out.stages] == [64, 128, 256]
    torch.testing.assert_close(out.pooled, plain.stages[2].mean((2, 3)))
    assert torch.equal(out.stages[2], plain.stages[2])
    # the ReLU after layer2.0.bn1 works in place: the tap holds what the module returned, not what became of it
    assert bool((out.stages[1] < 0).any())
    assert torch.equal(out.logits, plain.logits)


def test_preactivations_of_blocks_that_end_in_a_module(make) -> None:
    for name, params in (("torchvision/resnet18", {}), ("timm/resnet18", {"zero_init_last": False})):
        out = make(name, params=params, warm=False)(images(), stages=True, preact=True)
        for after, before in zip(out.stages, out.preact, strict=True):
            assert bool((before < 0).any())
            assert torch.equal(before.relu(), after)
    linear = make("timm/vit_tiny_patch16_224", warm=False)(images(), stages=True, preact=True)
    assert all(torch.equal(a, b) for a, b in zip(linear.stages, linear.preact, strict=True))


def test_preactivations_that_a_function_hides_are_refused(make) -> None:
    net = make("torchvision/googlenet", image_size=64, stages=["conv3"], warm=False)
    assert not net.info.preact
    with pytest.raises(ModelError, match="stage 'conv3' ends in an activation that is no module"):
        net(images(2, 64), preact=True)
    assert net(images(2, 64), stages=True).preact == []


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Spec("torchvision/resnet19"), ["no classifier 'resnet19'", "resnet18"]),
        (Spec("torchvision/fcn_resnet50"), ["no classifier"]),
        (Spec("timm/resnet181"), ["timm has no model", "resnet18"]),
        (Spec("torchvision/resnet18", {"weights": "DEFAULT"}), ["'weights' does not belong here", "weights:"]),
        (Spec("torchvision/resnet18", {"num_classes": 4}), ["'num_classes' does not belong here"]),
        (Spec("torchvision/resnet18", {"zero_init": 1}), ["did you mean 'zero_init_residual'?", "width_per_group"]),
        (Spec("torchvision/resnet18", {"width": 0.5}), ["no parameter 'width'"]),
        (Spec("timm/vit_tiny_patch16_224", {"dept": 2}), ["did you mean 'depth'?"]),
        (Spec("torchvision/resnet18", {"replace_stride_with_dilation": 3}), ["failed: TypeError"]),
        (Spec("torchvision/resnet18", stages=["layer9"]), ["no module 'layer9'", "its parts are: conv1, bn1"]),
        (Spec("torchvision/resnet18", stages=["fc"]), ["module 'fc' gives [2, 10], which is no feature map"]),
        (Spec("torchvision/resnet18", pooled="head"), ["pooled", "no module 'head' runs"]),
        (Spec("nowhere.at_all:net"), ["no module 'nowhere'"]),
        (Spec("math:sqr"), ["math has no 'sqr' (did you mean 'sqrt'?)"]),
        (Spec("math:pi"), ["pi is float"]),
        (Spec("collections:OrderedDict"), ["returned OrderedDict, not a torch.nn.Module"]),
        (Spec("not a name:at all"), ["not of the form package.module:callable"]),
    ],
)
def test_bad_specs_say_what_and_the_way_out(spec: Spec, said: list[str]) -> None:
    for function in (describe, build):
        with pytest.raises(ModelError) as caught:
            function(spec, 10, 64)
        assert all(part in str(caught.value) for part in said), str(caught.value)
        assert "\n" not in str(caught.value)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(ModelError, match="model torchvision/inception_v3: it cannot run on 3x32x32 images"):
        describe(Spec("torchvision/inception_v3"), 10, 32)


def test_timm_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without(name: str, package: str | None = None):
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ModelError, match=r"timm is not installed. pip install kdray\[timm\]"):
        describe(Spec("timm/resnet18"), 10, 32)


def test_timm_without_a_classifier_gives_features_only(make) -> None:
    net = make("timm/resnet18", num_classes=None, warm=False)
    out = net(images())
    assert out.logits is None and out.pooled.shape == (2, 512)
    assert net.info.num_classes is None and net.classifier is None


MINE = '''
import torch
from torch import nn

class Plain(nn.Module):
    """Two stages and a two-layer head; the logits are scaled, so no Linear makes them."""
    def __init__(self, num_classes=10, channels=8, scale=None):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(2 * channels, num_classes)
        self.scale = scale
    def forward(self, x):
        x = self.two(self.one(x)).mean((2, 3))
        return {"logits": self.head(x) if self.scale is None else self.scale * self.head(x), "extra": x}

def seven():
    return Plain(7)

def features(**kwargs):
    class Only(nn.Sequential):
        pass
    return Only(nn.Conv2d(3, 12, 3, stride=2), nn.ReLU())

class ReadsItself(nn.Module):
    """Looks at its own values while it is built and while it runs: impossible on the meta device."""
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, num_classes)
        self.size = self.conv.weight.detach().abs().max().item()
    def forward(self, x):
        x = self.conv(x / self.size)
        return self.fc(x.mean((2, 3)) if x.detach().sum().item() < 1e9 else x.amax((2, 3)))

def broken(num_classes):
    raise RuntimeError("out of ideas")

class Crashes(nn.Module):
    def forward(self, x):
        return self.nothing(x)
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_nets.py").write_text(MINE)
    (tmp_path / "my_bad.py").write_text("import torch\n1 / 0\n")
    (tmp_path / "my_needy.py").write_text("import surely_not_installed\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield
    for name in ("my_nets", "my_bad", "my_needy"):
        sys.modules.pop(name, None)


def test_a_users_callable_beside_the_experiment(mine, make) -> None:
    net = make("my_nets:Plain", params={"channels": 4}, warm=False)
    out = net(images(), stages=True, preact=True)
    assert net.info.stage_shapes == ((4, 32, 32), (8, 16, 16)) and net.info.linear_head
    torch.testing.assert_close(net.classifier(out.pooled), out.logits)
    assert all(torch.equal(a, b.relu()) for a, b in zip(out.stages, out.preact, strict=True))
    assert make("my_nets:seven", num_classes=7, warm=False)(images()).logits.shape == (2, 7)


def test_a_users_head_that_is_not_linear(mine, make) -> None:
    net = make("my_nets:Plain", params={"scale": 3.0}, warm=False)
    out = net(images())
    assert net.classifier is None and out.pooled.shape == (2, 16)
    torch.testing.assert_close(3 * net.backbone.head(out.pooled), out.logits)


def test_a_users_backbone_without_logits(mine, make) -> None:
    net = make("my_nets:features", num_classes=None, warm=False)
    out = net(images(), stages=True)
    assert out.logits is None
    torch.testing.assert_close(out.pooled, out.stages[-1].mean((2, 3)))
    with pytest.raises(ModelError, match="the data has 10 classes"):
        describe(Spec("my_nets:features"), 10, 32)


def test_a_network_that_needs_real_values_is_probed_with_real_values(mine, make) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    info = describe(Spec("my_nets:ReadsItself"), 5, 16)
    assert torch.equal(torch.rand(2), expected), "describing draws nothing from the caller's random numbers"
    assert info.num_classes == 5 and info.pooled_dim == 4 and info.linear_head
    assert make("my_nets:ReadsItself", num_classes=5, image_size=16, warm=False)(images(2, 16)).logits.shape == (2, 5)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Spec("my_nets:seven"), ["it gives [7] per image, the data has 10 classes", "num_classes"]),
        (Spec("my_nets:Plain", {"chanels": 3}), ["did you mean 'channels'?", "it takes: channels, scale"]),
        (Spec("my_nets:seven", {"any": 3}), ["it takes: none"]),
        (Spec("my_nets:Plane"), ["my_nets has no 'Plane' (did you mean 'Plain'?)"]),
        (Spec("my_nets:broken"), ["failed: RuntimeError: out of ideas"]),
        (Spec("my_nets:Crashes"), ["cannot run on 3x32x32 images", "nothing"]),
        (Spec("my_bad:net"), ["importing my_bad failed: ZeroDivisionError"]),
        (Spec("my_needy:net"), ["needs the module 'surely_not_installed'", "pip install"]),
        (Spec("my_net:Plain"), ["no module 'my_net'"]),
    ],
)
def test_a_users_mistakes(mine, spec: Spec, said: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        describe(spec, 10, 32)
    assert all(part in str(caught.value) for part in said), str(caught.value)


def test_hooks_leave_nothing_behind_and_copies_have_their_own(make) -> None:
    import copy

    net = make("torchvision/resnet18", warm=False)
    assert isinstance(net, TappedNet)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(0.5)
    x = images()
    first, second = net(x, stages=True), twin(x, stages=True)
    assert not torch.equal(first.stages[0], second.stages[0])
    assert torch.equal(net(x, stages=True).stages[0], first.stages[0])
    for one in (net, twin):
        board = one._board
        assert board.pooled is None and not board.maps and not board.pre and not board.stages


def test_a_tapped_network_compiles_whole(make) -> None:
    net = make("torchvision/resnet18", warm=False)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    wanted, got = net(images(), stages=True, preact=True), compiled(images(), stages=True, preact=True)
    torch.testing.assert_close(got.logits, wanted.logits)
    for a, b in zip(got.stages + got.preact, wanted.stages + wanted.preact, strict=True):
        torch.testing.assert_close(a, b)
