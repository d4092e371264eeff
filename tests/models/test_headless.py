"""Networks without a classifier: of the zoo, of torchvision, of a user's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from kdray.errors import ModelError
from kdray.models import Net, build, describe, list_models
from kdray.models.export import export_bytes, export_program, load_exported
from kdray.models.weights import load_weights

from .conftest import Spec, images

OWN = """
from torch import nn

class WithHead(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(5, num_classes)

    def forward(self, x):
        return self.head(self.body(x))

def backbone():
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 7))

class Conv(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x):
        return self.body(x)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "headless_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "headless_own", raising=False)


def without(model: str, **spec: Any) -> Spec:
    return Spec(model, classifier=False, **spec)


@pytest.mark.parametrize("name", [row.name for row in list_models()])
def test_every_zoo_network_comes_without_its_classifier(name: str) -> None:
    whole, info = describe(Spec(name), 10, 32), describe(without(name), 10, 32)
    assert (info.num_classes, info.linear_head) == (None, False)
    assert (info.pooled_dim, info.stage_shapes) == (whole.pooled_dim, whole.stage_shapes)
    assert whole.parameters - info.parameters == 10 * (whole.pooled_dim + 1)
    assert describe(without(name), None, 32) == describe(without(name), 100, 32) == info


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2", "torchvision/resnet18", "timm/resnet10t"])
def test_it_gives_the_same_features_and_no_logits(name: str) -> None:
    params = {"width": 0.25} if "/" not in name else {}
    torch.manual_seed(0)
    whole = build(Spec(name, params), 10, 32).eval()
    net = build(without(name, params=params), 10, 32).eval()
    state = {key: value for key, value in whole.backbone.state_dict().items() if whole.head_name not in key}
    assert set(net.backbone.state_dict()) == set(state)
    net.backbone.load_state_dict(state)
    x = images()
    wanted, got = whole(x, stages=True), net(x, stages=True)
    assert got.logits is None and net.classifier is None and net.head_name is None
    torch.testing.assert_close(got.pooled, wanted.pooled)
    for one, other in zip(got.stages, wanted.stages, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(net.backbone(x), wanted.pooled)
    assert net.info == describe(without(name, params=params), 10, 32)


def test_a_torchvision_head_with_layers_before_its_last_linear() -> None:
    net = build(without("torchvision/vgg11"), 10, 32)
    assert (net.info.pooled_dim, net.removed_head) == (4096, "classifier.6")
    assert isinstance(net.backbone.get_submodule("classifier.6"), nn.Identity)


def test_weights_of_the_whole_network_serve(make: Callable[..., Net], tmp_path: Path) -> None:
    for name in ("resnet8", "torchvision/resnet18"):
        whole = make(name)
        path = tmp_path / "whole.safetensors"
        safetensors.torch.save_file(whole.backbone.state_dict(), path)
        net = build(without(name), None, 32).eval()
        report = load_weights(net, str(path))
        assert not any(key.startswith("fc.") for key in report.keys)
        torch.testing.assert_close(net(images()).pooled, whole(images()).pooled)


def test_weights_without_a_classifier_do_not_fill_one(make: Callable[..., Net], tmp_path: Path) -> None:
    path = tmp_path / "headless.safetensors"
    safetensors.torch.save_file(build(without("resnet8"), None, 32).backbone.state_dict(), path)
    with pytest.raises(ModelError, match=r"missing 2: fc\.weight, fc\.bias"):
        load_weights(make("resnet8"), str(path))


@pytest.mark.parametrize("name", ["resnet8", "torchvision/resnet18"])
def test_there_and_back(name: str, make: Callable[..., Net], tmp_path: Path) -> None:
    net = make(name, classifier=False)
    data, text = export_bytes(net, {})
    (tmp_path / "x.safetensors").write_bytes(data)
    (tmp_path / "x.json").write_text(text)
    again, card = load_exported(str(tmp_path / "x.json"))
    assert (card["classifier"], card["num_classes"]) == (False, None)
    torch.testing.assert_close(again(images()).pooled, net(images()).pooled)
    # a card from before there was a choice
    old = {key: value for key, value in json.loads(export_bytes(make(name), {})[1]).items() if key != "classifier"}
    (tmp_path / "x.safetensors").write_bytes(export_bytes(make(name), {})[0])
    (tmp_path / "x.json").write_text(json.dumps(old))
    assert load_exported(str(tmp_path / "x.json"))[0].info.num_classes == 10


def test_the_card_says_how_to_load_it_without_this_project(make: Callable[..., Net]) -> None:
    net = make("torchvision/resnet18", classifier=False)
    data, text = export_bytes(net, {})
    said = json.loads(text)["load"]
    assert said.startswith("model = torchvision.models.get_model('resnet18'); model.set_submodule('fc', torch.nn.Ident")
    model = torchvision.models.get_model("resnet18")
    model.set_submodule("fc", nn.Identity())
    model.load_state_dict(safetensors.torch.load(data))
    torch.testing.assert_close(model.eval()(images()), net(images()).pooled)


def test_its_program_gives_the_pooled_vector(make: Callable[..., Net], tmp_path: Path) -> None:
    net = make("resnet8", classifier=False)
    export_program(net, tmp_path / "x.pt2")
    program = torch.export.load(tmp_path / "x.pt2").module()
    torch.testing.assert_close(program(images(3)), net(images(3)).pooled)


@pytest.mark.usefixtures("own")
def test_a_callable_that_takes_classes_loses_its_linear_and_a_backbone_stays_as_it_is() -> None:
    assert describe(without("headless_own:WithHead"), 10, 32).pooled_dim == 5
    assert build(without("headless_own:WithHead"), 10, 32)(images()).pooled.shape == (2, 5)
    net = build(without("headless_own:backbone"), 10, 32)
    assert (net.info.pooled_dim, net.info.num_classes, net.removed_head) == (7, None, None)
    assert net(images()).logits is None and net(images()).pooled.shape == (2, 7)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (without("headless_own:Conv"), r"model headless_own:Conv, classifier: its classifier is not one Linear"),
        (without("torchvision/squeezenet1_1"), "its classifier is not one Linear"),
        (without("torchvision/resnet18", pooled="fc"), "pooled: without a classifier its output is its pooled vector"),
    ],
)
def test_refusals(spec: Spec, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        describe(spec, 10, 64)


def test_a_classifier_that_is_kept_is_built_as_ever(make: Callable[..., Net]) -> None:
    assert make("resnet8").removed_head is None
    assert build(Spec("resnet8"), 10, 32).recipe["classifier"] is True
