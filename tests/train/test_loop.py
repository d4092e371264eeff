"""The loop: a stopped run ends as one that was not, losses are guarded, options do what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdray.errors import Interrupted, TrainingError
from kdray.experiment import Checkpointing, Optimizer
from kdray.train.job import Outcome
from tests.train.conftest import DrawnFeed, Listener, MakeLoop


def same(a: Outcome, b: Outcome) -> bool:
    return a.last.keys() == b.last.keys() and all(torch.equal(a.last[key], b.last[key]) for key in a.last)


@pytest.mark.parametrize("stop_at", [1, 3, 6, 7, 14])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema": 0.9, "accumulate": 2, "clip_norm": 0.5},
        {"optimizer": Optimizer(type="adamw", lr=0.003), "objectives": {"clmkd": {}}},
        {"objectives": {"ce": {}, "clmkd.class_guided": {"mode": "memory", "negatives": 16, "positives": 2}}},
    ],
    ids=["sgd", "ema-accumulate-clip", "adamw-clmkd", "banks"],
)
def test_a_stopped_run_goes_on_to_the_same_weights_bit_for_bit(
    make_loop: MakeLoop, stop_at: int, options: dict[str, Any]
) -> None:
    whole = make_loop(**options).run()
    with pytest.raises(Interrupted, match="state saved"):
        make_loop("run", listener=Listener(stop_at), **options).run()
    resumed = make_loop("run", **options).run()
    assert resumed.resumed_from > 0
    assert same(whole, resumed)
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3]
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert a["loss/total"] == pytest.approx(b["loss/total"], rel=1e-6)


def test_dropout_follows_the_position_not_the_past(make_loop: MakeLoop) -> None:
    def with_dropout(net: Any) -> Any:
        def drop(module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            return F.dropout(output, 0.5, module.training)

        net.backbone.layer3[0].register_forward_hook(drop)
        return net

    whole = make_loop(net_factory=with_dropout).run()
    with pytest.raises(Interrupted):
        make_loop("run", listener=Listener(5), net_factory=with_dropout).run()
    assert same(whole, make_loop("run", net_factory=with_dropout).run())


def test_every_steps_saves_at_those_steps(make_loop: MakeLoop) -> None:
    listener = Listener()
    loop = make_loop("run", listener=listener, checkpoint=Checkpointing(every_steps=5, every_minutes=None, keep=9))
    loop.run()
    assert [values["step"] for kind, values in listener.events if kind == "checkpoint"] == [5, 10, 15, 18]


def test_accumulating_equals_the_whole_batch_where_nothing_mixes_samples(make_loop: MakeLoop) -> None:
    def without_norms(net: Any) -> Any:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
                module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
        return net

    one = make_loop(net_factory=without_norms, epochs=1).run()
    four = make_loop(net_factory=without_norms, epochs=1, accumulate=4).run()
    for key, value in one.last.items():
        torch.testing.assert_close(four.last[key], value, rtol=1e-4, atol=1e-5)
    assert four.history[0]["loss/total"] == pytest.approx(one.history[0]["loss/total"], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_step_part_and_checkpoint(make_loop: MakeLoop) -> None:
    loop = make_loop("run", checkpoint=Checkpointing(every_steps=5, every_minutes=None), log_every=3)
    forward = loop.job.trainable.objectives.forward

    def spoiled(*args: Any) -> Any:
        report = forward(*args)
        if args[-1].step >= 8:
            report.parts["kd"] = report.parts["kd"] * float("nan")
            report.total = report.total * float("nan")
        return report

    loop.job.trainable.objectives.forward = spoiled  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"not finite at step 8: kd\..*step-000000005\.pt"):
        loop.run()


def test_a_diverging_loss_stops(make_loop: MakeLoop) -> None:
    loop = make_loop(optimizer=Optimizer(lr=1e4), log_every=1, divergence_factor=5)
    with pytest.raises(TrainingError, match=r"diverges at step|not finite"):
        loop.run()


def test_weights_that_are_not_finite_are_never_saved(make_loop: MakeLoop) -> None:
    loop = make_loop("run", checkpoint=Checkpointing(every_steps=4, every_minutes=None), log_every=50)
    step = loop.optimizer.step

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        if loop.step == 3:
            next(loop.job.trainable.net.parameters()).data.fill_(float("inf"))
        return result

    loop.optimizer.step = spoiled  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="not finite"):
        loop.run()
    assert loop.job.checkpoints is not None and loop.job.checkpoints.names() == []


def test_best_on_validation_is_kept_apart_from_the_last(make_loop: MakeLoop) -> None:
    scores = iter([0.3, 0.9, 0.5])
    seen: list[dict[str, torch.Tensor]] = []

    def validate(net: Any) -> dict[str, float]:
        seen.append({key: value.clone() for key, value in net.backbone.state_dict().items()})
        return {"top1": next(scores)}

    outcome = make_loop(validate=validate).run()
    assert outcome.best_epoch == 2 and outcome.best is not None
    assert all(torch.equal(outcome.best[key], seen[1][key]) for key in seen[1])
    assert all(torch.equal(outcome.last[key], seen[2][key]) for key in seen[2])
    assert [row["val/top1"] for row in outcome.history] == [0.3, 0.9, 0.5]


def test_a_feed_that_ends_early_is_an_error(make_loop: MakeLoop) -> None:
    class Short(DrawnFeed):
        def epoch(self, epoch: int, start: int = 0) -> Any:
            yield from list(super().epoch(epoch, start))[:-1]

    with pytest.raises(TrainingError, match="5 batches, 6 were planned"):
        make_loop(feed=Short()).run()


def test_a_checkpoint_of_other_data_is_refused(make_loop: MakeLoop) -> None:
    with pytest.raises(Interrupted):
        make_loop("run", listener=Listener(2)).run()

    class Longer(DrawnFeed):
        steps_per_epoch = 7

    with pytest.raises(TrainingError, match=r"6 steps an epoch.*7"):
        make_loop("run", feed=Longer()).run()


def test_teacher_is_untouched_and_student_learns(make_loop: MakeLoop) -> None:
    loop = make_loop(epochs=4)
    assert loop.job.teacher is not None
    before = {key: value.clone() for key, value in loop.job.teacher.net.state_dict().items()}
    outcome = loop.run()
    after = loop.job.teacher.net.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert outcome.history[-1]["loss/ce"] < outcome.history[0]["loss/ce"]
