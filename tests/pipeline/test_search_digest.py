"""Another space is another run, more trials are the same one; the stages know of neither."""

from __future__ import annotations

from typing import Any

import pytest

from kdray.experiment import load_comparison
from kdray.experiment.space_text import plain_space
from kdray.objectives.search_space import space_of
from kdray.pipeline.plan import Plan, make_plan
from tests.tiny import Lab

SEARCH: dict[str, Any] = {"space": {"objectives.kd.weight": "uniform(0.1, 2)"}, "trials": 4}


def planned(lab: Lab, search: dict[str, Any] | None) -> Plan:
    changes = {"cluster": {"workers": 1}, "search": search}
    return make_plan(load_comparison(lab.write(changes)), dry=True)


def stages(plan: Plan) -> dict[str, str]:
    return {stage.name: stage.spec.folder for stage, _ in plan.stages}


SAME = {
    "trials": 9,
    "concurrent": 1,
    "max_hours": 0.5,
    "metric": "val/top1",
    "searcher": {"type": "tpe", "startup": 8},
    "mlflow": "sqlite:///mlflow.db",
}
OTHER = {
    "space": {"objectives.kd.weight": "uniform(0.1, 3)"},
    "searcher": "random",
    "scheduler": "asha",
    "metric": "val/top5",
    "at": {"epochs": 1},
    "transfer": {"set": {"student.params.width": 0.25}},
}


@pytest.fixture
def base(lab: Lab) -> Plan:
    return planned(lab, SEARCH)


def test_what_does_not_change_the_trials_does_not_change_the_run(lab: Lab, base: Plan) -> None:
    for key, value in SAME.items():
        plan = planned(lab, {**SEARCH, key: value})
        assert (plan.digest, stages(plan)) == (base.digest, stages(base)), key


def test_another_search_is_another_run_of_the_same_stages(lab: Lab, base: Plan) -> None:
    seen = {base.digest}
    for key, value in OTHER.items():
        plan = planned(lab, {**SEARCH, key: value})
        assert plan.digest not in seen, key
        assert stages(plan) == stages(base), key
        seen.add(plan.digest)


def test_without_a_search_the_stages_are_the_same(lab: Lab, base: Plan) -> None:
    plan = planned(lab, None)
    assert stages(plan) == stages(base)
    assert plan.digest != base.digest


def test_the_default_space_is_what_it_says(lab: Lab, base: Plan) -> None:
    """Written out, it is the same search."""
    default = planned(lab, {"space": "default"})
    written = planned(lab, {"space": plain_space(space_of(default.comparison.first))})
    assert default.digest == written.digest != base.digest
