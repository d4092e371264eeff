"""Loss windows: one transfer, the right step and part blamed."""

import math

import pytest
import torch

from kdray.errors import TrainingError
from kdray.train.meter import Divergence, EpochMeter, LossWindow

CPU = torch.device("cpu")


def window(*rows: dict[str, float]) -> LossWindow:
    made = LossWindow(size=len(rows), device=CPU)
    for row in rows:
        parts = {name: torch.tensor(value) for name, value in row.items()}
        made.add(sum(parts.values(), torch.tensor(0.0)), parts)
    return made


def test_rows_come_back_in_order_with_missing_parts_as_zero() -> None:
    losses = window({"ce": 1.0}, {"ce": 2.0, "kd": 4.0}, {"ce": 3.0})
    assert losses.full
    found = losses.flush(stop=True, save=False, bad=True, waited=1.5)
    assert losses.names == ["ce", "kd", "total"]
    assert (found.stop, found.save, found.bad, found.waited) == (True, False, True, 1.5)
    assert found.rows.tolist() == [[1, 0, 1], [2, 4, 6], [3, 0, 3]]
    assert losses.count == 0


def test_a_loss_that_is_not_finite_names_step_part_and_checkpoint() -> None:
    losses = window({"ce": 1.0, "kd": 1.0}, {"ce": 1.0, "kd": math.nan}, {"ce": math.nan, "kd": math.nan})
    rows = losses.flush(False, False, False, 0.0).rows
    with pytest.raises(TrainingError, match=r"step 101: kd\..*runs/step-000000050\.pt"):
        losses.check(rows, first_step=100, limit=math.inf, last_saved="runs/step-000000050.pt")


def test_divergence_is_measured_against_the_first_window() -> None:
    judge = Divergence(factor=10)
    first = window({"ce": 1.0, "kd": 1.0})
    rows = first.flush(False, False, False, 0.0).rows
    assert judge.limit(rows) == math.inf
    later = window({"ce": 1.0, "kd": 1.5}, {"ce": 2.0, "kd": 90.0})
    rows = later.flush(False, False, False, 0.0).rows
    limit = judge.limit(rows)
    assert limit == pytest.approx(20)
    with pytest.raises(TrainingError, match=r"step 8.*kd grew most"):
        later.check(rows, first_step=7, limit=limit, last_saved=None)
    with pytest.raises(TrainingError, match=r"step 8.*ce grew most"):
        later.check(rows, first_step=7, limit=limit, last_saved=None, reported_only={"kd"})


def test_epoch_meter_averages_and_survives_a_resume() -> None:
    meter = EpochMeter()
    meter.add(["ce", "total"], torch.tensor([[1.0, 1.0], [3.0, 3.0]]))
    meter.images, meter.seconds, meter.data_wait = 128, 2.0, 0.5
    again = EpochMeter()
    again.load_state_dict(meter.state_dict())
    again.add(["ce", "kd", "total"], torch.tensor([[2.0, 6.0, 8.0]]))
    summary = again.summary()
    assert summary["loss/ce"] == 2.0 and summary["loss/total"] == 4.0
    assert summary["images_per_s"] == 64.0 and summary["data_wait"] == 0.25
