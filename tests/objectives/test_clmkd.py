from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from kdray.objectives import ObjectiveSet, parse

from .cases import STEP, Case, make_case, make_setup

MODULES = ("class_guided", "gradient_relation", "semantic_similarity")


def run(case: Case, objectives: dict[str, Any], epoch: float = 0.5) -> Any:
    return case.run(ObjectiveSet(objectives, make_setup()).double(), replace(STEP, epoch=epoch, epochs=10))


def test_defaults_are_those_of_the_calibration() -> None:
    (entry,) = parse({"clmkd": {}})
    members = ("ce", "kd", *MODULES)
    assert [getattr(entry.options, name).weight for name in members] == [1.0, 1.0, 0.8, 1.0, 10.0]
    assert entry.options.kd.temperature == 4.0
    assert entry.options.class_guided.mode == "inbatch"
    assert entry.options.semantic_similarity.form == "gram_kl"


def test_a_sub_config_keeps_the_composites_defaults() -> None:
    (entry,) = parse({"clmkd": {"class_guided": {"temperature": 0.1}, "semantic_similarity": {"form": "sp"}}})
    assert entry.options.class_guided.mode == "inbatch" and entry.options.class_guided.weight == 0.8
    assert entry.options.semantic_similarity.weight == 3000


def test_parts_are_those_of_the_methods_alone() -> None:
    """Heads start as a function of the entry's name, so those of the composite are copied over."""
    setup = make_setup()
    case = make_case(setup)
    whole = ObjectiveSet({"clmkd": {"weight": 2}}, setup).double()
    report = case.run(whole)
    single = {"ce": {}, "kd": {}, **{f"clmkd.{name}": {} for name in MODULES}}
    single["clmkd.class_guided"] = {"mode": "inbatch", "weight": 0.8}
    alone = ObjectiveSet(single, setup).double()
    state = {}
    for name in alone.state_dict():
        _, key, rest = name.split(".", 2)
        state[name] = whole.state_dict()[f"members.clmkd.members.{key.removeprefix('clmkd/')}.{rest}"]
    alone.load_state_dict(state)
    other = case.run(alone)
    for name, weight in other.weights.items():
        mine = f"clmkd.{name.removeprefix('clmkd.')}"
        torch.testing.assert_close(report.parts[mine], other.parts[name])
        assert report.weights[mine] == pytest.approx(2 * weight)
    torch.testing.assert_close(report.total, 2 * other.total)


def test_each_member_can_be_left_out() -> None:
    case = make_case(make_setup())
    report = run(case, {"clmkd": {"kd": {"weight": 0}, "gradient_relation": {"weight": 0}}})
    assert set(report.parts) == {"clmkd.ce", "clmkd.class_guided", "clmkd.semantic_similarity"}


def test_each_member_has_a_schedule_of_its_own() -> None:
    """The last epochs with cross-entropy alone, as CRCD trains."""
    case, taper = make_case(make_setup()), {"schedule": {"type": "taper", "epochs": 2}}
    params = {name: taper for name in ("kd", *MODULES)}
    before, after = (run(case, {"clmkd": params}, epoch) for epoch in (7.9, 8.0))
    assert len(before.parts) == 5
    assert set(after.parts) == {"clmkd.ce"} and [after.weights[f"clmkd.{name}"] for name in params] == [0.0] * 4
    torch.testing.assert_close(after.total, after.parts["clmkd.ce"])


def test_all_members_but_cross_entropy_taper_at_once() -> None:
    case = make_case(make_setup())
    params = {
        "taper_epochs": 3,
        "weight": 2,
        "ce": {"weight": 0.5},
        "kd": {"schedule": {"type": "warmup", "epochs": 2}},
    }
    before, last, after = (run(case, {"clmkd": params}, epoch) for epoch in (1.0, 6.9, 7.0))
    assert before.weights["clmkd.kd"] == 1.0 and last.weights["clmkd.kd"] == 2.0
    assert len(last.parts) == 5 and set(after.parts) == {"clmkd.ce"}
    assert {name: w for name, w in after.weights.items() if w} == {"clmkd.ce": 1.0}
    torch.testing.assert_close(after.total, after.parts["clmkd.ce"])


def test_while_tapered_no_parameter_is_without_gradient() -> None:
    objectives = ObjectiveSet({"clmkd": {"taper_epochs": 2}}, make_setup()).double()
    make_case(make_setup()).run(objectives, replace(STEP, epoch=8.0, epochs=10)).total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in objectives.parameters())


def test_a_member_at_rest_leaves_no_parameter_without_gradient() -> None:
    setup = make_setup()
    rest = {"schedule": {"type": "warmup", "epochs": 1}}
    objectives = ObjectiveSet({"clmkd": {"class_guided": rest, "gradient_relation": rest}}, setup).double()
    make_case(setup).run(objectives, replace(STEP, epoch=0.0)).total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in objectives.parameters())


def test_all_forms_of_the_modules_combine() -> None:
    params = {
        "class_guided": {"mode": "memory", "positives": 3, "negatives": 5},
        "gradient_relation": {"source": "both", "mode": "memory", "bank_samples": 9},
        "semantic_similarity": {"form": "centroid_kl"},
    }
    case = make_case(make_setup())
    report = run(case, {"clmkd": params})
    report.total.backward()
    assert torch.isfinite(report.total) and len(report.parts) == 5
