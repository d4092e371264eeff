from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdray.errors import ConfigError
from kdray.objectives import Needs, ObjectiveSet, StepInfo

from . import user_objectives
from .cases import STEP, build, make_case, make_setup

WARM = {"type": "warmup", "epochs": 2}


def at(epoch: float) -> StepInfo:
    return replace(STEP, epoch=epoch, epochs=10)


def test_total_is_the_weighted_sum_of_the_parts() -> None:
    setup = make_setup()
    case = make_case(setup)
    objectives = {
        "ce": {"weight": 0.1},
        "kd": {"weight": 0.9, "schedule": WARM},
        "kd_hot": {"type": "kd", "temperature": 8, "schedule": "cosine"},
        "clmkd.class_guided": {"mode": "inbatch"},
    }
    report = case.run(ObjectiveSet(objectives, setup), at(1.0))
    cosine = 0.5 * (1 + np.cos(0.1 * np.pi))
    assert report.weights == pytest.approx({"ce": 0.1, "kd": 0.45, "kd_hot": cosine, "clmkd.class_guided": 1.0})
    assert list(report.parts) == list(report.weights)
    assert not any(part.requires_grad for part in report.parts.values())
    torch.testing.assert_close(report.total, sum(report.weights[name] * part for name, part in report.parts.items()))


def test_weights_act_on_the_gradient_too() -> None:
    setup = make_setup()
    gradients = []
    for objectives in ({"ce": {"weight": 2}, "kd": {"weight": 3}}, {"ce": {}}, {"kd": {}}):
        case = make_case(setup)
        case.run(ObjectiveSet(objectives, setup)).total.backward()
        gradients.append(case.student_pooled.grad)
    torch.testing.assert_close(gradients[0], 2 * gradients[1] + 3 * gradients[2])


def test_weight_zero_at_a_step_is_not_computed_but_leaves_no_parameter_without_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = make_setup()
    params = {"type": "clmkd.class_guided", "mode": "memory", "schedule": WARM}
    objectives, case = ObjectiveSet({"ce": {}, "one": params}, setup).double(), make_case(setup)
    state = {name: value.clone() for name, value in objectives.state_dict().items()}
    report = case.run(objectives, at(0.0))
    report.total.backward()
    assert report.weights == {"ce": 1.0, "one": 0.0} and list(report.parts) == ["ce"]
    for name, parameter in objectives.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
    torch.testing.assert_close(objectives.state_dict(), state, equal_nan=True)
    assert "one" in case.run(objectives, at(0.1)).parts


def test_all_weights_zero_at_a_step_still_backpropagates() -> None:
    setup = make_setup()
    case = make_case(setup)
    report = case.run(ObjectiveSet({"kd": {"schedule": WARM}}, setup), at(0.0))
    report.total.backward()
    assert report.total.item() == 0.0 and not case.student_pooled.grad.any()


def test_weight_zero_in_the_file_is_not_built_and_needs_nothing() -> None:
    setup = replace(make_setup(), teacher=None)
    objectives = ObjectiveSet({"ce": {}, "clmkd": {"weight": 0}}, setup)
    assert list(objectives.parameters()) == [] and objectives.needs == Needs(teacher=False)
    with pytest.raises(ConfigError, match="every objective has weight 0"):
        ObjectiveSet({"ce": {"weight": 0}}, setup)


def test_only_heads_are_parameters_and_only_state_is_buffers() -> None:
    setup = make_setup()
    objectives = ObjectiveSet({"ce": {}, "kd": {}, "clmkd.class_guided": {"dim": 7}}, setup)
    assert {name.split(".")[2] for name, _ in objectives.named_parameters()} == {"embed_student", "embed_teacher"}
    saved = {name.partition(".")[2].partition(".")[2] for name in objectives.state_dict()}
    assert {"bank_student.vectors", "bank_teacher.vectors", "log_z"} <= saved
    assert not any("sampler" in name for name in saved)
    assert set(objectives.state_names) == {name for name, _ in objectives.named_buffers()}


def test_heads_and_banks_are_a_function_of_seed_and_name() -> None:
    setup, params = make_setup(), {"type": "clmkd.class_guided", "dim": 7}
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = ObjectiveSet({"x": params, "y": params}, setup).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    two = ObjectiveSet({"ce": {}, "x": params}, setup).state_dict()
    for name in two:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=0, equal_nan=True)
    weight = "embed_student.weight"
    assert not torch.equal(one[f"members.x.{weight}"], one[f"members.y.{weight}"])
    other = ObjectiveSet({"x": params}, replace(setup, seed=6)).state_dict()
    assert not torch.equal(one[f"members.x.{weight}"], other[f"members.x.{weight}"])


def test_what_the_setup_does_not_give_is_said_with_the_key() -> None:
    setup = make_setup()

    class FourViews(user_objectives.Gap):
        @classmethod
        def needs(cls, options):
            return Needs(min_views=4)

    user_objectives.FourViews = FourViews  # type: ignore[attr-defined]
    views = {"x": {"type": f"{user_objectives.__name__}:FourViews"}}
    with pytest.raises(
        ConfigError, match=r"objectives\.x: it needs 4 views .* data\.views is 1\. Set data\.views to 4"
    ):
        ObjectiveSet(views, setup)
    assert ObjectiveSet(views, replace(setup, views=4)).needs.min_views == 4
    memory = {"c": {"type": "clmkd.class_guided"}}
    for labels in (None, np.zeros(3, dtype=np.int64)):
        with pytest.raises(ConfigError, match=r"student\.objectives\.c: it needs the labels of all 60 samples"):
            ObjectiveSet(memory, replace(setup, labels=labels), where="student.objectives")
    with pytest.raises(ConfigError, match=r"objectives\.keys: this name is taken"):
        ObjectiveSet({"keys": {"type": "ce"}}, setup)


def test_autocast_is_switched_off_inside_and_back_on_after() -> None:
    setup = make_setup()
    case, objectives = make_case(setup, dtype=torch.bfloat16), build({"type": "kd"}, setup, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = case.run(objectives)
        assert torch.is_autocast_enabled("cpu")
    assert report.total.dtype == torch.float32 and report.parts["one"].dtype == torch.float32
    report.total.backward()
    assert case.student_pooled.grad is not None and case.student_pooled.grad.dtype == torch.bfloat16
