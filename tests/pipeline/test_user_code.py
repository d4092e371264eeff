"""A user's own code is part of what makes a result."""

from pathlib import Path
from typing import Any

import pytest

from kdray.experiment import ModelSpec, load_experiment
from kdray.pipeline.plan import make_plan
from kdray.pipeline.user_code import models_in, references, source_digests
from tests.tiny import Lab

NET = """
from torch import nn

def net(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))
"""


def test_references_are_those_with_a_colon() -> None:
    objectives = {"ce": {}, "mine": {"type": "own.losses:Mine", "weight": 2}, "own.more:Other": {}}
    assert references(["resnet8", "own.nets:net"], objectives) == ["own.losses:Mine", "own.more:Other", "own.nets:net"]


def test_an_edited_module_has_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "edited_net.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    module.write_text("def net(num_classes): ...\n")
    before = source_digests(["edited_net:net"])
    assert source_digests(["edited_net:net"]) == before and len(before["edited_net:net"]) == 64
    module.write_text("def net(num_classes): return None\n")
    assert source_digests(["edited_net:net"]) != before


def test_what_cannot_be_found_is_left_to_the_one_who_builds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_package").mkdir()
    (tmp_path / "broken_package" / "__init__.py").write_text("1 / 0")
    assert source_digests(["nowhere:f", "no.where.at.all:f", "broken_package.nets:f", ".:f", ":f"]) == {}


@pytest.mark.parametrize(
    "params, found",
    [
        ({"student": {"model": "own.nets:net", "params": {}}, "channels": 8}, ["composed", "own.nets:net"]),
        ({"student": {}}, ["composed"]),
        ({"student": "resnet8"}, ["composed"]),
        ({}, ["composed"]),
    ],
)
def test_a_composed_network_has_another_inside(params: dict[str, Any], found: list[str]) -> None:
    assert models_in(ModelSpec(model="composed", params=params)) == found
    assert models_in(ModelSpec(model="own.nets:other", params={"student": {"model": "x:y"}})) == ["own.nets:other"]


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_an_edited_module_inside_of_a_composed_network_changes_the_stage(
    role: str, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SimKD exports stands in the next experiment as a composed network."""
    name = f"inside_{role}"
    monkeypatch.syspath_prepend(str(lab.folder))
    inside = {"model": f"{name}:net", "stages": ["1"], "pooled": "3"}
    spec = {"model": "composed", "params": {"width": None, "student": inside, "channels": 8, "side": 4, "factor": 2}}
    digests = []
    for text in (NET, NET, NET + "# edited"):
        (lab.folder / f"{name}.py").write_text(text)
        plan = make_plan(load_experiment(lab.write({role: spec})), dry=True)
        digests.append({stage.name: stage.digest for stage, _ in plan.stages})
    assert digests[0] == digests[1]
    assert digests[0]["student"] != digests[2]["student"]
    assert (digests[0]["teacher"] != digests[2]["teacher"]) == (role == "teacher")
