"""Every method goes on with the state of another set of itself; what does not fit is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdray.errors import ConfigError
from kdray.objectives import ObjectiveSet, StepInfo
from kdray.objectives.handover import difference, held, take_over

from .cases import EVERY, build, case_id, make_case, make_setup, views_of


def reports(objectives: ObjectiveSet, case: Any, steps: range) -> list[dict[str, Tensor]]:
    found = []
    for step in steps:
        report = case.run(objectives, StepInfo(epoch=3.0 + step, epochs=10, step=step, seed=0))
        report.total.backward(retain_graph=True)
        found.append({name: part.clone() for name, part in report.parts.items()})
    return found


@pytest.mark.parametrize("params", EVERY, ids=case_id)
def test_every_method_goes_on_as_if_it_had_stayed(params: dict[str, Any]) -> None:
    setup = make_setup(views=views_of(params))
    case = make_case(setup, 8)
    stayed, former, later = (build(params, setup) for _ in range(3))
    for parameter in later.parameters():
        parameter.data.fill_(0.5)  # nothing of its own may count
    for each in (stayed, former):
        reports(each, case, range(2))
    tensors = held(former)
    take_over(later, former)
    assert held(later).keys() == tensors.keys()
    assert all(tensor is tensors[name] for name, tensor in held(later).items())
    for one, other in zip(reports(stayed, case, range(2, 4)), reports(later, case, range(2, 4)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(stayed.state_dict(), later.state_dict(), rtol=0, atol=0, equal_nan=True)


def of(**objectives: dict[str, Any]) -> ObjectiveSet:
    return ObjectiveSet(objectives, make_setup())


def test_options_may_differ_and_constants_stay_ones_own() -> None:
    former, later = (of(ce={}, crd={"bank_samples": 8, "dim": 4, "weight": weight}) for weight in (1, 3))
    assert difference(former, later) is None
    constants = {name: buffer for name, buffer in later.named_buffers() if name not in held(later)}
    assert constants  # the class sampler's tables
    take_over(later, former)
    assert all(dict(later.named_buffers())[name] is buffer for name, buffer in constants.items())
    assert later.members["crd"].options.weight == 3


def test_the_first_difference_is_told() -> None:
    small, large = (of(ce={}, crd={"bank_samples": 8, "dim": dim}) for dim in (4, 6))
    found = difference(small, large)
    assert found is not None and found.objective == "crd"
    assert found.problem.startswith("it changes the state embed_student.weight from float")
    for pair, said in (((of(ce={}), small), "it needs state that is not"), ((small, of(ce={})), "it leaves state ")):
        found = difference(*pair)
        assert found is not None and found.objective == "crd" and found.problem.startswith(said)
    with pytest.raises(ConfigError, match=r"phases: objectives\.crd: it changes the state"):
        take_over(large, small)


def test_a_frozen_head_is_not_a_trained_one() -> None:
    one, other = of(ce={}, fitnet={}), of(ce={}, fitnet={})
    next(other.parameters()).requires_grad_(False)
    found = difference(one, other)
    assert found is not None and found.objective == "fitnet" and "frozen" in found.problem


def test_a_module_without_state_holds_none() -> None:
    assert held(nn.ReLU()) == {} and difference(of(ce={}), of(ce={}, kd={})) is None
