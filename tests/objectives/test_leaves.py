"""Losses one by one: where their weights stand, and that they are what the sum is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdray.errors import ConfigError
from kdray.objectives import ObjectiveSet
from kdray.objectives.leaves import leaves, losses

from . import user_objectives
from .cases import STEP, Case, make_case, make_setup

GAP = f"{user_objectives.__name__}:Gap"


def found(case: Case, objectives: ObjectiveSet) -> dict[str, torch.Tensor]:
    heads = case.student_head, case.teacher_head
    return dict(losses(objectives, case.targets, case.student, case.teacher, *heads, STEP))


def test_a_composite_is_its_members_and_its_weight_stands_around_theirs() -> None:
    known = leaves({"kd": {"weight": 0.9}, "mine": {"type": "mcld", "weight": 2, "instance": {"weight": 3}}})
    assert {label: (leaf.keys, leaf.weight, leaf.around) for label, leaf in known.items()} == {
        "kd": (("kd",), 0.9, 1.0),
        "mine.ce": (("mine", "ce"), 1.0, 2.0),
        "mine.kd": (("mine", "kd"), 0.0, 2.0),
        "mine.instance": (("mine", "instance"), 3.0, 2.0),
        "mine.sample": (("mine", "sample"), known["mine.sample"].weight, 2.0),
        "mine.category": (("mine", "category"), known["mine.category"].weight, 2.0),
    }
    assert known["mine.instance"].total == 6.0 and known["mine.kd"].total == 0.0


def test_two_of_one_name_cannot_be_told_apart() -> None:
    both = {"mcld": {}, "mcld.instance": {}}
    with pytest.raises(
        ConfigError, match=r"objectives\.mcld\.instance: two parts are called mcld\.instance\. Call one"
    ):
        leaves(both)


@pytest.mark.parametrize(
    "objectives",
    [
        {"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 2}},
        {"ce": {}, "dkd": {"alpha": 0.5, "beta": 3, "schedule": {"type": "constant"}}, "rkd": {"distance": 0}},
        {"ce": {}, "gap": {"type": GAP, "weight": 0.3}},
        {"mcld": {"weight": 2, "category": {"weight": 0.7, "schedule": "constant"}}, "at": {"weight": 100}},
        {"clmkd": {"ce": {"weight": 0.5}}, "crcd": {"bank_samples": 8, "dim": 5}},
    ],
    ids=lambda objectives: "-".join(objectives),
)
def test_times_their_weights_they_are_the_total(objectives: dict[str, Any]) -> None:
    setup = make_setup()
    known = leaves(objectives)
    case, again = make_case(setup), make_case(setup)
    report = case.run(ObjectiveSet(objectives, setup).double())
    one_by_one = found(again, ObjectiveSet(objectives, setup).double())
    assert list(one_by_one) == [label for label, leaf in known.items() if leaf.total > 0]
    total = sum(known[label].total * loss for label, loss in one_by_one.items())
    torch.testing.assert_close(total, report.total)
    report.total.backward()
    total.backward()
    torch.testing.assert_close(again.student_pooled.grad, case.student_pooled.grad)


def test_schedules_do_not_reach_them() -> None:
    setup = make_setup()
    warm = {"type": "warmup", "epochs": 100}
    plain = {"kd": {}, "clmkd": {"kd": {"weight": 0.5}}}
    scheduled = {"kd": {"schedule": warm}, "clmkd": {"taper_epochs": 4, "schedule": warm, "kd": {"schedule": warm}}}
    a = found(make_case(setup), ObjectiveSet(plain, setup).double())
    b = found(make_case(setup), ObjectiveSet(scheduled, setup).double())
    assert a.keys() == b.keys() and all(torch.equal(a[label], b[label]) for label in a)
    assert all(loss.requires_grad for loss in b.values())
