"""Weights from files of every kind, and what is said when they do not fit."""

from __future__ import annotations

import argparse
import hashlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision.models
from torch import Tensor, nn

from kdray.errors import ModelError, StoreError
from kdray.models import Net, load_weights
from kdray.models.state import digest
from kdray.models.weights import fitting_model, is_published

from .conftest import images


@pytest.fixture
def source(make) -> Net:
    return make("resnet8", params={"width": 0.5})


@pytest.fixture
def target(make) -> Net:
    net = make("resnet8", params={"width": 0.5}, warm=False)
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(0.5)
    return net


def state_of(net: Net) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.backbone.state_dict().items()}


def same(a: Net, b: Net) -> bool:
    return all(torch.equal(x, y) for x, y in zip(state_of(a).values(), state_of(b).values(), strict=True))


def test_safetensors(source: Net, target: Net, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state_of(source), file)
    report = load_weights(target, str(file))
    assert same(source, target) and torch.equal(source(images()).logits, target(images()).logits)
    assert report.keys == tuple(target.backbone.state_dict()) and report.converted == ()
    assert report.source == str(file) and report.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("nest", "prefix"),
    [
        ((), ""),
        (("state_dict",), "module."),
        (("model",), ""),
        (("model_state",), "_orig_mod.module."),
        (("net",), "backbone."),
        (("teacher", "state_dict"), "module.model."),
    ],
)
def test_torch_checkpoints_in_their_wrappings(
    source: Net, target: Net, tmp_path: Path, nest: tuple[str, ...], prefix: str, legacy: bool
) -> None:
    found: object = OrderedDict((prefix + key, value) for key, value in state_of(source).items())
    for key in reversed(nest):
        # what training scripts put beside the weights; the options and the numpy number need more than tensors
        found = {"epoch": 3, "best_acc": np.float64(70.1), "opt": argparse.Namespace(lr=0.1), key: found}
    torch.save(found, tmp_path / "ckpt.pth", _use_new_zipfile_serialization=not legacy)
    load_weights(target, str(tmp_path / "ckpt.pth"))
    assert same(source, target)


def test_half_precision_is_converted_and_said(source: Net, target: Net, tmp_path: Path) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in state_of(source).items()}
    safetensors.torch.save_file(half, tmp_path / "h.safetensors")
    report = load_weights(target, str(tmp_path / "h.safetensors"))
    assert "conv1.weight: float16 -> float32" in report.converted
    assert len(report.converted) == sum(value.is_floating_point() for value in half.values())
    assert torch.equal(target.backbone.conv1.weight, source.backbone.conv1.weight.half().float())


def test_counters_of_old_checkpoints_may_be_missing(source: Net, target: Net, tmp_path: Path) -> None:
    state = {key: value for key, value in state_of(source).items() if "num_batches" not in key}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert set(load_weights(target, str(tmp_path / "w.safetensors")).keys) == set(state)


def refused(net: Net, file: Path | str, *said: str) -> None:
    before = state_of(net)
    with pytest.raises(ModelError) as caught:
        load_weights(net, str(file))
    text = str(caught.value)
    assert all(part in text for part in said) and "\n" not in text, text
    assert all(torch.equal(value, before[key]) for key, value in state_of(net).items()), "left as it was"


def test_the_report_counts_and_names_keys(target: Net, tmp_path: Path) -> None:
    state = state_of(target)
    for key in [key for key in state if key.startswith("layer3.0.bn")]:
        del state[key]
    state |= {"extra.weight": torch.zeros(1), "conv1.weight": torch.zeros(9, 3, 3, 3)}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    refused(
        target,
        tmp_path / "w.safetensors",
        "does not fit resnet8: missing 8: layer3.0.bn1.weight, layer3.0.bn1.bias, layer3.0.bn1.running_mean",
        "and 3 more; unexpected 1: extra.weight; of another shape 1: conv1.weight [9, 3, 3, 3] instead of [8, 3, 3, 3]",
        str(tmp_path / "w.safetensors"),
    )


def test_only_the_classifier_differs(make, tmp_path: Path) -> None:
    safetensors.torch.save_file(state_of(make("wrn_16_1", 100)), tmp_path / "w.safetensors")
    net = make("wrn_16_1", 10, warm=False)
    refused(net, tmp_path / "w.safetensors", "the file has 100 classes, the data 10")
    head = net.classifier.weight.clone()
    report = load_weights(net, str(tmp_path / "w.safetensors"), keep_head=False)
    assert torch.equal(net.classifier.weight, head) and "fc.weight" not in report.keys
    assert torch.equal(net.backbone.conv1.weight, make("wrn_16_1", 100).backbone.conv1.weight)


def test_a_file_of_another_network_of_the_zoo_is_recognised(make, tmp_path: Path) -> None:
    state = state_of(make("resnet14", 100, warm=False))
    assert fitting_model(state) == "resnet14" and fitting_model({"a": torch.zeros(1)}) is None
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    refused(make("resnet8", 100, warm=False), tmp_path / "w.safetensors", "unexpected", "the file fits 'resnet14'")


def test_values_that_are_not_finite_or_quantised(target: Net, tmp_path: Path) -> None:
    state = state_of(target)
    state["fc.bias"][0] = float("nan")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    refused(target, tmp_path / "w.safetensors", "not finite in 1 tensors: fc.bias")
    state["fc.bias"] = torch.zeros(10, dtype=torch.int8)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    refused(target, tmp_path / "w.safetensors", "fc.bias [10] int8 instead of [10]")


def test_files_that_are_cut_damaged_or_of_another_kind(source: Net, target: Net, tmp_path: Path) -> None:
    good, torch_file = tmp_path / "good.safetensors", tmp_path / "good.pth"
    safetensors.torch.save_file(state_of(source), good)
    torch.save(state_of(source), torch_file)
    cases = {
        "cut.safetensors": (good.read_bytes()[:-100], "damaged or cut short"),
        "cut.pth": (torch_file.read_bytes()[:-1000], "damaged or cut short"),
        "empty.pth": (b"", "is empty"),
        "page.pth": (b"<!DOCTYPE html><html>not found</html>", "neither safetensors nor a torch checkpoint"),
        "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
    }
    for name, (data, said) in cases.items():
        (tmp_path / name).write_bytes(data)
        refused(target, tmp_path / name, str(tmp_path / name), said)
    refused(target, tmp_path / "god.safetensors", "does not exist (did you mean 'good.safetensors'?)")
    refused(target, tmp_path, "is a folder")
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "none.pth")
    refused(target, tmp_path / "none.pth", "holds no weights, only epoch, loss")
    torch.save([1, 2], tmp_path / "list.pth")
    refused(target, tmp_path / "list.pth", "holds list, not a state dict")


class Runs:
    """Unpickling this would call open(): what `weights_only` is there to stop."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_checkpoint_that_would_run_code_is_refused_with_the_way_out(target: Net, tmp_path: Path) -> None:
    torch.save({"model": Runs(str(tmp_path / "ran"))}, tmp_path / "evil.pth")
    refused(target, tmp_path / "evil.pth", "holds more than weights", "convert it once", "save_file")
    assert not (tmp_path / "ran").exists()
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    refused(target, tmp_path / "module.pth", "holds more than weights")


def test_object_storage_is_read_through_the_store(source: Net, target: Net, tmp_path: Path, monkeypatch) -> None:
    import kdray.store

    data = safetensors.torch.save(state_of(source))
    asked = []

    def read_uri(uri: str) -> bytes:
        asked.append(uri)
        if "missing" in uri:
            raise StoreError("no such object", where=uri)
        return data

    monkeypatch.setattr(kdray.store, "read_uri", read_uri)
    report = load_weights(target, "s3://bucket/w.safetensors")
    assert asked == ["s3://bucket/w.safetensors"] == [report.source] and same(source, target)
    with pytest.raises(StoreError, match="no such object"):
        load_weights(target, "gs://bucket/missing.pth")


def test_published_weights_of_torchvision_are_fetched_when_loaded(make, monkeypatch: pytest.MonkeyPatch) -> None:
    published = torchvision.models.resnet18(num_classes=1000)
    fetched = []

    def get_state_dict(self, *args, **kwargs):
        fetched.append(self.name)
        return published.state_dict()

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", get_state_dict)
    net = make("torchvision/resnet18", num_classes=1000, warm=False)
    assert fetched == []
    report = load_weights(net, "DEFAULT")
    assert fetched == ["IMAGENET1K_V1"] and report.source == "torchvision/resnet18:IMAGENET1K_V1"
    assert report.sha256 == digest(published.state_dict())
    assert torch.equal(net(images()).logits, published.eval()(images()))
    refused(make("torchvision/resnet18", warm=False), "IMAGENET1K_V1", "the file has 1000 classes, the data 10")
    refused(net, "IMAGENET1K_V2", "nor weights of torchvision/resnet18 (did you mean 'IMAGENET1K_V1'?)", "DEFAULT")


def test_published_weights_leave_auxiliary_classifiers_out(make, monkeypatch: pytest.MonkeyPatch) -> None:
    published = torchvision.models.googlenet(num_classes=1000, aux_logits=True, init_weights=False)
    weights = torchvision.models.GoogLeNet_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda self, *a, **k: published.state_dict())
    net = make("torchvision/googlenet", num_classes=1000, image_size=64, warm=False)
    load_weights(net, "DEFAULT")
    assert net.backbone.transform_input is True  # these files expect another normalisation
    published.transform_input = True
    assert torch.equal(net(images(2, 64)).logits, published.eval()(images(2, 64)))


def test_published_weights_of_timm(make, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    torch.manual_seed(9)
    published = timm.create_model("resnet18", num_classes=10)
    net = make("timm/resnet18", warm=False)
    calls = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: calls.append((name, options)) or published)
    load_weights(net, "pretrained")
    assert calls == [("resnet18", {"pretrained": True})]
    assert torch.equal(net(images()).logits, published.eval()(images()))


def test_a_failed_download_is_one_line(make, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self, *args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", offline)
    net = make("torchvision/resnet18", num_classes=1000, warm=False)
    refused(net, "DEFAULT", "could not be fetched: OSError: no route to host", "give the file's path")


def test_names_are_told_from_files() -> None:
    assert is_published("torchvision/resnet18", "DEFAULT") and is_published("timm/resnet18", "pretrained")
    for model, weights in [
        ("torchvision/resnet18", None),
        ("torchvision/resnet18", "w.pth"),
        ("torchvision/resnet18", "runs/w"),
        ("timm/resnet18", "timm"),
        ("resnet20", "DEFAULT"),
    ]:
        assert not is_published(model, weights)


def test_a_digest_is_of_keys_types_shapes_and_values() -> None:
    base = {"a": torch.arange(4.0), "b": torch.tensor(3)}
    assert digest(base) == digest({"b": torch.tensor(3), "a": torch.arange(4.0)})
    others = [
        base | {"a": torch.arange(4.0).view(2, 2)},
        base | {"a": torch.arange(4.0).bfloat16()},
        base | {"a": torch.arange(1.0, 5.0)},
        base | {"c": torch.zeros(0)},
    ]
    assert len({digest(state) for state in [base, *others]}) == 5
