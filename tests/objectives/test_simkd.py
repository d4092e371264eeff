from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdray.errors import ConfigError
from kdray.models import Net, Outputs, build
from kdray.objectives import Composite, Objective, ObjectiveConfig, ObjectiveSet, Setup
from kdray.objectives.simkd import SimKD, SimKDConfig

from .cases import build as build_objectives
from .cases import make_case, make_setup


@dataclass
class Spec:
    model: str
    params: dict[str, Any] = field(default_factory=dict)


def nets(student: str = "resnet8", teacher: str = "resnet8", classes: int = 4, size: int = 16) -> tuple[Net, Net]:
    torch.manual_seed(0)
    one = build(Spec(student, {"width": 0.125}), classes, size)
    return one, build(Spec(teacher, {"width": 0.25}), classes, size).eval().requires_grad_(False)


def setup_of(student: Net, teacher: Net, classes: int = 4) -> Setup:
    return replace(make_setup(classes=classes), student=student.info, teacher=teacher.info)


def plain_projector(ours: nn.Module) -> nn.Sequential:
    """The same layers as torch has them, with the same weights."""
    convolutions = [layer for layer in ours if isinstance(layer, nn.Conv2d)]
    theirs = nn.Sequential()
    for conv in convolutions:
        kernel = conv.kernel_size[0]
        theirs.append(nn.Conv2d(conv.in_channels, conv.out_channels, kernel, padding=kernel // 2, bias=False))
        theirs.extend([nn.BatchNorm2d(conv.out_channels), nn.ReLU()])
    theirs.load_state_dict(ours.state_dict())
    return theirs.to(convolutions[0].weight.dtype)


@pytest.mark.parametrize(("side_s", "side_t"), [(2, 2), (4, 2), (2, 4), (3, 2)])
def test_equals_plain_layers_and_a_mean_over_every_entry(side_s: int, side_t: int) -> None:
    setup = make_setup()
    student = replace(setup.student, stage_shapes=((6, side_s, side_s),))
    teacher = replace(setup.teacher, stage_shapes=((9, side_t, side_t),))
    setup = replace(setup, student=student, teacher=teacher)
    case, objectives = make_case(setup, 5), build_objectives({"type": "simkd"}, setup)
    (member,) = objectives.members.values()
    theirs, side = plain_projector(member.projector), min(side_s, side_t)
    projected = theirs(F.adaptive_avg_pool2d(case.student.stages[-1], side))
    target = F.adaptive_avg_pool2d(case.teacher.stages[-1], side)
    total, count = projected.new_zeros(()), 0
    for s, t in zip(projected.flatten(), target.flatten(), strict=True):
        total, count = total + (s - t) ** 2, count + 1
    report = case.run(objectives)
    torch.testing.assert_close(report.parts["one"], (total / count).detach())
    assert report.weights == {"one": 1.0} and [c.out_channels for c in theirs[::3]] == [4, 4, 9]
    torch.testing.assert_close(member.projector.state_dict(), theirs.state_dict())  # running statistics too


def test_zero_where_the_projected_map_is_the_teachers() -> None:
    setup = make_setup()
    case, objectives = make_case(setup, 5), build_objectives({"type": "simkd"}, setup)
    (member,) = objectives.members.values()
    case.teacher.stages[-1] = member.projector(case.student.stages[-1]).detach()
    assert case.run(objectives).total.item() == 0.0


def test_the_deployed_network_shares_everything_and_follows_the_training() -> None:
    student, teacher = nets()
    objectives = ObjectiveSet({"simkd": {}}, setup_of(student, teacher))
    deployed = objectives.deployed(student, teacher)
    assert deployed.classifier is teacher.classifier
    mine = {id(p) for p in [*student.parameters(), *objectives.parameters()]}
    assert {id(p) for p in deployed.parameters()} == mine | {id(p) for p in teacher.classifier.parameters()}
    images = torch.randn(3, 3, 16, 16)
    deployed.eval()
    before = deployed(images).logits
    with torch.no_grad():
        objectives.members["simkd"].projector[0].weight.mul_(-1.0)
    assert not torch.allclose(before, deployed(images).logits)
    expected = build(Spec("composed", deployed.recipe["params"]), 4, 16).eval()
    expected.backbone.load_state_dict(deployed.backbone.state_dict())
    assert torch.equal(expected(images).logits, deployed(images).logits)


def test_most_objectives_leave_the_network_alone() -> None:
    student, teacher = nets()
    objectives = ObjectiveSet({"ce": {}, "kd": {}, "clmkd": {}}, setup_of(student, teacher))
    assert objectives.deployed(student, teacher) is student


class BothConfig(ObjectiveConfig):
    simkd: SimKDConfig = SimKDConfig()


class Both(Composite):
    config = BothConfig
    members_of: ClassVar[dict[str, type[Objective]]] = {"simkd": SimKD}


def test_only_one_objective_may_change_the_network() -> None:
    setup = setup_of(*nets())
    with pytest.raises(ConfigError, match=r"objectives\.again: simkd and again both change the network"):
        ObjectiveSet({"simkd": {}, "again": {"type": "simkd"}}, setup)


def test_a_composite_hands_the_network_on() -> None:
    student, teacher = nets()
    both = Both(BothConfig(), setup_of(student, teacher))
    assert both.deployed(student, teacher).info.name == "composed"
    without = Both(BothConfig(simkd=SimKDConfig(weight=0)), setup_of(student, teacher))
    assert without.deployed(student, teacher) is student


def test_teachers_whose_classifier_cannot_be_taken_over() -> None:
    setup = make_setup()

    def refused(said: str, **changes: Any) -> None:
        with pytest.raises(ConfigError, match=said):
            ObjectiveSet({"simkd": {}}, replace(setup, teacher=replace(setup.teacher, **changes)))

    refused(r"objectives\.simkd: the classifier of large is not one Linear", linear_head=False)
    refused("large has 7 classes, the data 5", num_classes=7)
    refused("large hands out no feature map", stage_shapes=())
    refused("reads 9 channels, and its last map has 8", stage_shapes=((8, 2, 2),))
    composed = replace(setup, student=replace(setup.student, name="composed"))
    with pytest.raises(ConfigError, match="itself a composed network"):
        ObjectiveSet({"simkd": {}}, composed)


def test_a_teacher_that_does_not_average_its_last_map_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = nets()
    objectives = ObjectiveSet({"simkd": {}}, setup_of(student, teacher))
    objectives.deployed(student, teacher)
    taps = teacher.backbone.taps

    def of_the_largest(*args: Any) -> Outputs:
        outputs = taps(*args)
        return replace(outputs, pooled=outputs.stages[-1].amax(dim=(2, 3)))

    monkeypatch.setattr(teacher.backbone, "taps", of_the_largest)
    with pytest.raises(ConfigError, match=r"objectives\.simkd: .* does not read the mean of its last map"):
        objectives.deployed(student, teacher)
