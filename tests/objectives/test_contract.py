from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from kdray.objectives import Needs, ObjectiveConfig, StepInfo, Targets, WeightSchedule


def factors(schedule: WeightSchedule, *epochs: float) -> list[float]:
    return [schedule.at(epoch, 10) for epoch in epochs]


def test_schedules() -> None:
    assert factors(WeightSchedule(), 0.0, 9.9) == [1.0, 1.0]
    warmup = WeightSchedule(type="warmup", epochs=4)
    assert factors(warmup, 0.0, 1.0, 4.0, 9.0) == [0.0, 0.25, 1.0, 1.0]
    cosine = factors(WeightSchedule(type="cosine"), 0.0, 2.5, 5.0, 10.0, 11.0)
    assert cosine == pytest.approx([1.0, (1 + math.sqrt(0.5)) / 2, 0.5, 0.0, 0.0])
    taper = WeightSchedule(type="taper", epochs=2)
    assert factors(taper, 0.0, 7.99, 8.0, 9.5) == [1.0, 1.0, 0.0, 0.0]


def test_short_form_of_a_schedule() -> None:
    config = ObjectiveConfig.model_validate({"schedule": "cosine", "weight": 3})
    assert config.schedule == WeightSchedule(type="cosine")
    assert config.weight_at(StepInfo(epoch=5.0, epochs=10, step=0, seed=0)) == pytest.approx(1.5)


@pytest.mark.parametrize("bad", ["warmup", {"type": "taper"}, {"type": "cosine", "epochs": 2}, {"type": "steps"}, 3])
def test_schedules_that_cannot_be(bad: object) -> None:
    with pytest.raises(ValidationError):
        ObjectiveConfig.model_validate({"schedule": bad})


def test_configs_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ObjectiveConfig().weight = 2.0  # type: ignore[misc]


def test_needs_unite() -> None:
    union = Needs(teacher=False, min_views=4) | Needs(stages=True, index=True)
    assert union == Needs(teacher=True, stages=True, index=True, min_views=4)
    assert Needs(teacher=False) | Needs(teacher=False) == Needs(teacher=False)


def test_rows_of_views_are_view_major() -> None:
    targets = Targets(torch.tensor([7, 8]), torch.tensor([1, 2]), views=3)
    assert targets.row_labels.tolist() == [7, 8, 7, 8, 7, 8]
    assert targets.row_index.tolist() == [1, 2, 1, 2, 1, 2]
