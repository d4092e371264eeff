"""What makes a trial good, and what of it counts."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kdray.tune.trials import Goal, best_trial, changes_of, new_trial, now, take_rows, wall_of

TOP1 = Goal("val/top1")


def rows(*values: Any, seconds: float = 10.0) -> list[dict[str, Any]]:
    """Epochs 1, 2, ... with these values of val/top1."""
    return [{"epoch": n, "val/top1": value, "seconds": seconds} for n, value in enumerate(values, 1)]


def test_the_best_epoch_counts_and_of_equal_ones_the_first() -> None:
    assert TOP1.best(rows(0.1, 0.4, 0.3, 0.4)) == (0.4, 2)
    assert Goal("val/top1", "min").best(rows(0.3, 0.1, 0.2, 0.1)) == (0.1, 2)
    assert TOP1.best([]) is None
    assert Goal("val/nll", "min").best(rows(0.1)) is None


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_never_counts(bad: float | None) -> None:
    for mode, best in (("max", (0.3, 3)), ("min", (0.2, 1))):
        assert Goal("val/top1", mode).best(rows(0.2, bad, 0.3)) == best
        assert Goal("val/top1", mode).best(rows(bad)) is None


def test_a_budget_of_epochs() -> None:
    goal = Goal("val/top1", epochs=2)
    history = rows(0.1, 0.2, 0.9)
    assert goal.counted(history) == history[:2]
    assert goal.best(history) == (0.2, 2)
    assert [goal.spent(history[:n]) for n in range(4)] == [False, False, True, True]


def test_a_budget_of_time() -> None:
    goal = Goal("val/top1", seconds=25)
    history = rows(0.1, 0.2, 0.9)
    assert goal.best(history) == (0.2, 2)  # the third ended after 30 s
    # What is spent is asked before an epoch that would end too late, as long as the mean one.
    assert [goal.spent(history[:n]) for n in range(4)] == [False, False, True, True]
    assert not Goal("val/top1", seconds=30).spent(history[:2])
    assert Goal("val/top1", seconds=30).best(history) == (0.9, 3)


def test_an_epoch_that_is_longer_than_the_budget_counts_alone() -> None:
    goal = Goal("val/top1", seconds=5)
    assert goal.best(rows(0.1, 0.9)) == (0.1, 1)
    assert goal.spent(rows(0.1))


def test_without_a_budget_a_trial_trains_to_its_end() -> None:
    assert not TOP1.spent(rows(*[0.1] * 1000))


def test_rows_are_laid_over_what_was_known() -> None:
    trial = new_trial(3, {"a": 1}, {"a": 1})
    take_rows(trial, rows(0.1, 0.5, 0.2), TOP1)
    assert (trial["value"], trial["best_epoch"], trial["epochs"]) == (0.5, 2, 3)
    # The process died, and went on from the first epoch's checkpoint: the second is another one now.
    take_rows(trial, [{"epoch": 2, "val/top1": 0.3, "seconds": 1.0}], TOP1)
    assert [row["val/top1"] for row in trial["history"]] == [0.1, 0.3, 0.2]
    assert (trial["value"], trial["best_epoch"], trial["epochs"]) == (0.3, 2, 3)
    take_rows(trial, [], TOP1)
    assert (trial["value"], trial["epochs"]) == (0.3, 3)


def test_rows_are_copies_that_json_can_hold() -> None:
    trial, given = new_trial(0, {}, {}), [{"epoch": 1, "val/top1": math.nan, "loss/total": math.inf, "lr": 0.1}]
    take_rows(trial, given, TOP1)
    assert trial["history"] == [{"epoch": 1, "val/top1": None, "loss/total": None, "lr": 0.1}]
    assert math.isnan(float(given[0]["val/top1"]))
    assert (trial["value"], trial["best_epoch"], trial["epochs"]) == (None, None, 1)


def test_a_trial_owns_its_parameters() -> None:
    parameters = {"a": 1}
    trial = new_trial(0, parameters, parameters)
    parameters["a"] = 2
    assert trial["parameters"] == trial["changes"] == {"a": 1}
    assert (trial["state"], trial["attempts"], trial["value"]) == ("waiting", 0, None)


def ended(number: int, value: float | None, state: str = "done", **more: Any) -> dict[str, Any]:
    return new_trial(number, {}, {}) | {"state": state, "value": value} | more


def test_the_best_trial() -> None:
    trials = [ended(3, 0.5), ended(1, 0.5), ended(0, 0.9, "stopped"), ended(2, None), ended(4, 0.2)]
    best = best_trial(trials, TOP1)
    assert best is not None and best["number"] == 1
    least = best_trial(trials, Goal("val/top1", "min"))
    assert least is not None and least["number"] == 4
    any_state = best_trial(trials, TOP1, ("done", "stopped"))
    assert any_state is not None and any_state["number"] == 0
    assert best_trial([ended(0, 0.9, "failed")], TOP1) is None
    assert best_trial([], TOP1) is None


def test_wall_time_counts_what_overlaps_once() -> None:
    def ran(start: int, end: int) -> dict[str, Any]:
        return ended(0, 0.1, finished=f"2026-01-01T00:{end:02d}:00+00:00", wall_s=60.0 * (end - start))

    assert wall_of([]) == 0
    assert wall_of([ended(0, None, "waiting")]) == 0
    assert wall_of([ran(0, 2), ran(1, 3), ran(1, 2)]) == 180
    # A command of the day after: the night between the two does not count.
    assert wall_of([ran(10, 12), ran(0, 1)]) == 180


def test_now_is_read_back_with_its_zone() -> None:
    assert now().endswith("+00:00")


def test_changes_of_a_trial_are_its_own() -> None:
    trial = new_trial(0, {"method": "kd"}, {"objectives.kd.weight": 2.0})
    assert changes_of(trial) == {"objectives.kd.weight": 2.0}
    changes_of(trial)["x"] = 1
    assert trial["changes"] == {"objectives.kd.weight": 2.0}


def turn(epoch: int, weight: float, lr: float = 0.1) -> dict[str, Any]:
    values = {"objectives.kd.weight": weight, "train.optimizer.lr": lr}
    return {"from_epoch": epoch, "parameters": values, "changes": values, "from": None}


def test_a_lineage_becomes_phases_on_the_first_parameters() -> None:
    trial = new_trial(0, {}, turn(5, 9.0)["changes"]) | {"lineage": [turn(0, 1.0), turn(2, 1.2), turn(5, 1.2, 0.08)]}
    assert changes_of(trial) == {
        "objectives.kd.weight": 1.0,
        "train.optimizer.lr": 0.1,
        "phases": [
            {"from_epoch": 2, "set": {"objectives.kd.weight": 1.2}},
            {"from_epoch": 5, "set": {"train.optimizer.lr": 0.08}},
        ],
    }


def test_a_lineage_that_changed_nothing_has_no_phases() -> None:
    trial = new_trial(0, {}, {}) | {"lineage": [turn(0, 1.0), turn(2, 1.0)]}
    assert changes_of(trial) == {"objectives.kd.weight": 1.0, "train.optimizer.lr": 0.1}
