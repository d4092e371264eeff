"""An objective that changes the network: what is validated, averaged, kept and resumed is what is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdray.errors import Interrupted
from kdray.models import Net, build
from kdray.models.composed import NAME
from kdray.train.checkpoint import Checkpoints
from kdray.train.job import Outcome
from tests.train.conftest import CLASSES, SIZE, Listener, MakeLoop

SIMKD: dict[str, Any] = {"objectives": {"simkd": {}}}


class Spec:
    model = NAME

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params


def rebuilt(net: Net, weights: dict[str, torch.Tensor]) -> Net:
    """The network of `net`'s recipe with `weights`, sharing nothing."""
    other = build(Spec(net.recipe["params"]), CLASSES, SIZE)
    other.backbone.load_state_dict(weights)
    return other.eval()


def same(a: Outcome, b: Outcome) -> bool:
    return a.last.keys() == b.last.keys() and all(torch.equal(a.last[key], b.last[key]) for key in a.last)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "accumulate": 2, "clip_norm": 0.5}], ids=["plain", "ema"])
def test_a_stopped_run_goes_on_to_the_same_weights_bit_for_bit(make_loop: MakeLoop, options: dict[str, Any]) -> None:
    whole = make_loop(**SIMKD, **options).run()
    with pytest.raises(Interrupted, match="state saved"):
        make_loop("run", listener=Listener(3), **SIMKD, **options).run()
    resumed = make_loop("run", **SIMKD, **options).run()
    assert resumed.resumed_from > 0 and same(whole, resumed)
    assert any(key.startswith("projector.") for key in whole.last) and "classifier.weight" in whole.last


@pytest.mark.parametrize("ema", [None, 0.5])
def test_validation_and_the_kept_weights_are_of_the_deployed_network(make_loop: MakeLoop, ema: float | None) -> None:
    scores, seen = iter([0.3, 0.9, 0.5]), []
    images = torch.randn(4, 3, SIZE, SIZE)

    def validate(net: Net) -> dict[str, float]:
        assert net.info.name == NAME
        was = net.training
        seen.append(net.eval()(images).logits.detach())
        net.train(was)
        return {"top1": next(scores)}

    loop = make_loop(validate=validate, ema=ema, **SIMKD)
    outcome = loop.run()
    assert outcome.best is not None and outcome.best_epoch == 2
    assert torch.equal(rebuilt(loop.job.network, outcome.best)(images).logits, seen[1])
    assert torch.equal(rebuilt(loop.job.network, outcome.last)(images).logits, seen[2])
    assert not torch.equal(seen[1], seen[2])


def test_the_average_follows_the_projector_too(make_loop: MakeLoop) -> None:
    loop = make_loop(ema=0.5, **SIMKD)
    averaged = loop.run().last
    plain = make_loop(**SIMKD).run().last
    live = loop.job.network.backbone.state_dict()
    for key in ("projector.0.weight", "projector.1.running_mean", "student.backbone.conv1.weight"):
        assert torch.equal(live[key], plain[key]) and not torch.equal(averaged[key], plain[key]), key
    assert torch.equal(averaged["classifier.weight"], plain["classifier.weight"])


def test_the_teachers_classifier_is_never_trained_and_never_in_a_checkpoint_twice(
    make_loop: MakeLoop, tmp_path: Path
) -> None:
    loop = make_loop("run", **SIMKD)
    assert loop.job.teacher is not None and loop.job.teacher.head is not None
    trained = {id(p) for group in loop.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in loop.job.trainable.parameters()}
    assert not trained & {id(p) for p in loop.job.teacher.net.parameters()}
    before = loop.job.teacher.head.weight.clone()
    outcome = loop.run()
    assert torch.equal(loop.job.teacher.head.weight, before) and torch.equal(outcome.last["classifier.weight"], before)
    state = Checkpoints(loop.job.checkpoints.store, keep=2).load_latest()
    assert state is not None and not any("classifier" in key for key in state["trainable"])


def test_the_students_own_classifier_is_left_where_it_was_without_ce(make_loop: MakeLoop) -> None:
    """Its gradient is zero, not missing: DDP waits for every parameter. (Weight decay is none of this method's.)"""
    from kdray.experiment import Optimizer

    loop = make_loop(epochs=1, optimizer=Optimizer(lr=0.05, weight_decay=0.0), **SIMKD)
    before = loop.job.trainable.net.classifier.weight.clone()
    outcome = loop.run()
    assert torch.equal(outcome.last["student.backbone.fc.weight"], before)


def test_other_objectives_train_and_keep_the_plain_student(make_loop: MakeLoop) -> None:
    loop = make_loop(epochs=1)
    assert loop.job.network is loop.job.trainable.net
    assert set(loop.run().last) == set(loop.job.trainable.net.backbone.state_dict())
