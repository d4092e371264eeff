"""What leaves the house: weights with a card, and programs that plain torch runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from kdray.errors import ModelError
from kdray.models import Net, export_bytes, export_program, load_exported
from kdray.models.outputs import ModelInfo

from .conftest import images


def write(net: Net, folder: Path, **card: object) -> Path:
    data, text = export_bytes(net, card)
    (folder / "model.safetensors").write_bytes(data)
    (folder / "model.json").write_text(text)
    return folder / "model.json"


def elsewhere(code: str, folder: Path) -> None:
    """Run `code` in a fresh interpreter, isolated from this checkout; it must not have needed kdray."""
    check = "\nimport sys\nassert not any(name.split('.')[0] == 'kdray' for name in sys.modules), 'kdray was imported'"
    result = subprocess.run(
        [sys.executable, "-I", "-c", code + check], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet8", {"params": {"width": 0.5}, "stages": ["layer2"]}),
        ("ShuffleV2", {"params": {"width": 0.25}}),
        ("torchvision/resnet18", {"stages": ["layer1", "layer4"]}),
        ("timm/vit_tiny_patch16_224", {"params": {"depth": 2}}),
    ],
)
def test_there_and_back(name: str, options: dict, make, tmp_path: Path) -> None:
    net = make(name, 7, **options)
    card_file = write(net, tmp_path, mean=[0.5] * 3, std=[0.2] * 3, accuracy=0.71, model="an alias")
    loaded, card = load_exported(str(card_file))
    wanted, got = net(images(), stages=True), loaded(images(), stages=True)
    assert torch.equal(wanted.logits, got.logits) and torch.equal(wanted.pooled, got.pooled)
    assert all(torch.equal(a, b) for a, b in zip(wanted.stages, got.stages, strict=True))
    assert loaded.info == net.info and not loaded.training
    assert card["model"] == net.info.name and card["num_classes"] == 7 and card["image_size"] == 32
    assert card["mean"] == [0.5] * 3 and card["accuracy"] == 0.71
    assert card["parameters"] == net.info.parameters and card["pooled_dim"] == net.info.pooled_dim
    assert card["keys"] and card["load"]


def test_the_file_holds_the_plain_keys_whatever_the_memory_format(make, tmp_path: Path) -> None:
    net = make("resnet8").to(memory_format=torch.channels_last)
    write(net, tmp_path)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert set(state) == set(net.backbone.state_dict())
    assert all(torch.equal(state[key], value) for key, value in net.backbone.state_dict().items())
    assert json.loads((tmp_path / "model.json").read_text())["mean"] is None


def test_tied_weights_are_written_under_both_keys(tmp_path: Path) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(3, 3)
            self.b = self.a

    net = Net(Tied(), ModelInfo("tied", 3, 3), {"model": "tied:Tied", "num_classes": 3, "params": {}, "image_size": 8})
    state = safetensors.torch.load(export_bytes(net, {})[0])
    assert set(state) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_a_torchvision_network_loads_without_this_project(make, tmp_path: Path) -> None:
    net = make("torchvision/resnet18", 7)
    card = json.loads(write(net, tmp_path).read_text())
    torch.save((images(), net(images()).logits.detach()), tmp_path / "expected.pt")
    line = card["load"].replace("the .safetensors beside this card", "model.safetensors")
    code = f"""
import safetensors.torch, torch, torchvision
{line}
x, wanted = torch.load("expected.pt", weights_only=True)
torch.testing.assert_close(model.eval()(x), wanted, rtol=1e-4, atol=1e-5)
"""
    elsewhere(code, tmp_path)


def test_a_program_runs_in_plain_torch_at_any_batch(make, tmp_path: Path) -> None:
    net = make("resnet20", 100)
    export_program(net, tmp_path / "programs" / "net.pt2")
    x = images(5)
    torch.save((x, net(x).logits.detach()), tmp_path / "expected.pt")
    code = """
import torch
model = torch.export.load("programs/net.pt2").module()
x, wanted = torch.load("expected.pt", weights_only=True)
for n in (1, 2, 5):
    torch.testing.assert_close(model(x[:n]), wanted[:n], rtol=1e-4, atol=1e-5)
"""
    elsewhere(code, tmp_path)
    assert [path.name for path in (tmp_path / "programs").iterdir()] == ["net.pt2"]


def test_a_program_of_a_hooked_network_leaves_its_hooks_at_home(make, tmp_path: Path) -> None:
    net = make("torchvision/resnet18", 7)
    export_program(net, tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(program(images(3)), net(images(3)).logits, rtol=1e-4, atol=1e-5)
    assert len(net(images(), stages=True).stages) == 4, "the network itself keeps them"


def test_a_network_that_cannot_be_traced(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make("resnet8", warm=False)
    monkeypatch.setattr(type(net.backbone), "forward", lambda self, x: x if x.sum().item() > 0 else -x)
    with pytest.raises(ModelError, match="resnet8 cannot be exported as a program"):
        export_program(net, tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []


def test_cards_that_are_none(make, tmp_path: Path) -> None:
    card = write(make("resnet8", params={"width": 0.25}), tmp_path)
    text = card.read_text()
    for broken, said in [
        ("{", "is no JSON"),
        ("[]", "is not a card"),
        (text.replace("kdray.card/1", "other"), "is not a card"),
        (text.replace('"sha256": "', '"sha256": "0'), "is not the file that"),
        (text.replace('"width": 0.25', '"width": 0.5'), "of another shape"),
    ]:
        card.write_text(broken)
        with pytest.raises(ModelError, match=said):
            load_exported(str(card))
    with pytest.raises(ModelError, match="cannot be read"):
        load_exported(str(tmp_path / "none.json"))
    with pytest.raises(ModelError, match="carries no recipe"):
        export_bytes(Net(torch.nn.Linear(2, 2), ModelInfo("x", 2, 2)), {})
