"""A student with a projector and another network's classifier: built by recipe, exported, loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kdray.errors import ModelError
from kdray.models import Net, build, describe, export_bytes, export_program, load_exported
from kdray.models.composed import Projector, Shape, compose

from .conftest import Spec, images

SMALL = {"model": "resnet8", "params": {"width": 0.25}, "stages": None, "pooled": None}


def composed(make: Any, name: str = "resnet8", side: int = 8, **options: Any) -> Net:
    student = make(name, 7, **options)
    torch.manual_seed(5)
    projector = Projector(student.info.stage_shapes[-1][0], 12, 2)
    net = compose(student, projector, nn.Linear(12, 7), Shape(12, side, 2)).train()
    with torch.no_grad():
        net(images(4))  # so that no statistic is trivial
    return net.eval()


def write(net: Net, folder: Path) -> str:
    data, text = export_bytes(net, {"mean": [0.5] * 3})
    (folder / "model.safetensors").write_bytes(data)
    (folder / "model.json").write_text(text)
    return str(folder / "model.json")


@pytest.mark.parametrize("side", [8, 3])
def test_it_is_the_projected_last_map_averaged_and_classified(make: Any, side: int) -> None:
    net = composed(make, side=side)
    inside = net.backbone
    maps = inside.student(images(), stages=True).stages[-1]
    assert maps.shape[-1] == 8
    pooled = inside.projector(F.adaptive_avg_pool2d(maps, side)).mean(dim=(2, 3))
    got = net(images(), stages=True)
    torch.testing.assert_close(got.pooled, pooled)
    torch.testing.assert_close(got.logits, pooled @ inside.classifier.weight.T + inside.classifier.bias)
    assert len(got.stages) == 3 and net(images()).stages == []
    torch.testing.assert_close(inside(images()), got.logits)
    assert net.classifier is inside.classifier


def test_it_shares_its_parameters(make: Any) -> None:
    student = make("resnet8", 7, params={"width": 0.25})
    projector, classifier = Projector(16, 12, 2), nn.Linear(12, 7)
    net = compose(student, projector, classifier, Shape(12, 8, 2))
    own = {id(p) for p in net.parameters()}
    assert own == {id(p) for module in (student, projector, classifier) for p in module.parameters()}


@pytest.mark.parametrize("side", [8, 3])
def test_it_is_what_describe_says(make: Any, side: int) -> None:
    net = composed(make, side=side, params={"width": 0.25})
    recipe = Spec("composed", {"student": SMALL, "channels": 12, "side": side, "factor": 2})
    assert describe(recipe, 7, 32) == net.info == build(recipe, 7, 32).info
    assert net.info.parameters == sum(p.numel() for p in net.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images(1))
    assert net.info.flops == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet8", {"params": {"width": 0.5}, "stages": ["layer2"]}),
        ("ShuffleV2", {"params": {"width": 0.25}}),
        ("torchvision/resnet18", {"stages": ["layer1", "layer2"]}),
    ],
)
def test_there_and_back(make: Any, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    net = composed(make, name, **options)
    loaded, card = load_exported(write(net, tmp_path))
    assert torch.equal(net(images()).logits, loaded(images()).logits)
    assert loaded.info == net.info and card["model"] == "composed" and card["mean"] == [0.5] * 3
    assert loaded.recipe == net.recipe
    assert "kdray.models.composed" in card["keys"] and "load_exported" in card["load"]


def test_it_leaves_as_a_program_with_its_hooks(make: Any, tmp_path: Path) -> None:
    """The student's last map comes from a hook: without it there would be nothing to project."""
    net = composed(make, "torchvision/resnet18")
    export_program(net, tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    for rows in (1, 3):
        torch.testing.assert_close(program(images(rows)), net(images(rows)).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chanels": 4}, "knows no parameter 'chanels'"),
        ({"student": None}, "needs student"),
        ({"channels": 0}, r"params\.channels: 0 is no whole number above 0"),
        ({"student": {"params": {}}}, r"params\.student: it is not the spec of a network"),
        ({"student": {"model": "resnet9"}}, "unknown model 'resnet9'"),
        ({"student": {"model": "composed"}}, "cannot stand in another"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], said: str) -> None:
    params = {"student": SMALL, "channels": 12, "side": 8, "factor": 2} | changes
    spec = Spec("composed", {key: value for key, value in params.items() if value is not None})
    for ask in (build, describe):
        with pytest.raises(ModelError, match=said):
            ask(spec, 7, 32)


def test_its_stages_are_those_of_the_student() -> None:
    params = {"student": {**SMALL, "stages": ["layer1"]}, "channels": 12, "side": 8, "factor": 2}
    assert describe(Spec("composed", params), 7, 32).stage_shapes == ((4, 32, 32),)
    with pytest.raises(ModelError, match="takes its stages from the student"):
        build(Spec("composed", params, stages=["layer1"]), 7, 32)
    with pytest.raises(ModelError, match="needs a number of classes"):
        build(Spec("composed", params), None, 32)
