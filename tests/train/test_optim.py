"""Learning rates as functions of the step, and which parameters decay."""

import itertools
import math

import pytest
import torch
from torch import nn

from kdray.experiment import LrRule, Optimizer, Schedule, Train
from kdray.train.optim import base_lr, lr_at, make_optimizer, parameter_groups


def train(**changes) -> Train:
    values = {"epochs": 10, "batch": 64, "optimizer": Optimizer(lr=0.1)} | changes
    return Train(**values)


def test_multistep_drops_at_the_first_step_of_each_milestone() -> None:
    config = train(schedule=Schedule(type="multistep", milestones=[4, 8], gamma=0.1))
    rates = [lr_at(config, step, steps_per_epoch=5) for step in range(50)]
    assert rates[:20] == [0.1] * 20
    assert rates[20:40] == pytest.approx([0.01] * 20)
    assert rates[40:] == pytest.approx([0.001] * 10)


def test_cosine_with_warmup_climbs_to_the_peak_and_falls_to_the_floor() -> None:
    config = train(schedule=Schedule(type="cosine", warmup_epochs=2, min_lr=0.001))
    rates = [lr_at(config, step, steps_per_epoch=5) for step in range(50)]
    assert rates[0] == pytest.approx(0.01) and rates[9] == pytest.approx(0.1) and rates[10] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    done = 25 / 40
    assert rates[35] == pytest.approx(0.001 + 0.5 * 0.099 * (1 + math.cos(math.pi * done)))
    assert lr_at(config, 50, 5) == pytest.approx(0.001)


def test_onecycle_is_two_straight_lines() -> None:
    config = train(schedule=Schedule(type="onecycle", warmup_epochs=2))
    rates = [lr_at(config, step, steps_per_epoch=5) for step in range(50)]
    assert rates[4] == pytest.approx(0.05) and max(rates) == pytest.approx(0.1)
    falls = [a - b for a, b in itertools.pairwise(rates[10:])]
    assert falls == pytest.approx([falls[0]] * len(falls))


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_lr_rule_scales_from_the_batch_it_was_tuned_for(rule: str, factor: float) -> None:
    config = train(batch=256, lr_rule=LrRule() if rule == "none" else LrRule(type=rule, base_batch=64))
    assert base_lr(config) == pytest.approx(0.1 * factor)


def test_without_decay_for_norms_and_biases_only_matrices_decay() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    decayed, plain = parameter_groups([module], 0.1, decay_norm_and_bias=False)
    assert sorted(p.ndim for p in decayed["params"]) == [2, 4] and decayed["weight_decay"] == 0.1
    assert all(p.ndim == 1 for p in plain["params"]) and plain["weight_decay"] == 0.0
    (everything,) = parameter_groups([module], 0.1, decay_norm_and_bias=True)
    assert len(everything["params"]) == len(list(module.parameters()))


def test_optimizer_takes_the_recipe() -> None:
    module = nn.Linear(3, 2)
    sgd = make_optimizer(train(optimizer=Optimizer(lr=0.2, momentum=0.8, nesterov=True)), [module])
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["lr"] == 0.2 and sgd.param_groups[0]["momentum"] == 0.8
    adamw = make_optimizer(train(optimizer=Optimizer(type="adamw", lr=0.001, betas=(0.8, 0.95))), [module])
    assert isinstance(adamw, torch.optim.AdamW) and adamw.param_groups[0]["betas"] == (0.8, 0.95)


@pytest.mark.parametrize("warmup", [0.1, 0.3, 0.5, 1.5])
@pytest.mark.parametrize("kind", ["constant", "cosine", "onecycle"])
def test_no_rate_is_above_the_peak_where_the_warmup_ends_inside_an_epoch(kind: str, warmup: float) -> None:
    config = train(schedule=Schedule(type=kind, warmup_epochs=warmup))
    rates = [lr_at(config, step, steps_per_epoch=5) for step in range(50)]
    assert max(rates) == pytest.approx(0.1) and all(rate <= 0.1 + 1e-12 for rate in rates)
