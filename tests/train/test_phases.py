"""Phases: a run whose hyper-parameters change between epochs is one run, wherever it is stopped."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kdray.errors import ConfigError, Interrupted
from kdray.experiment import Checkpointing, Optimizer, Schedule, Train
from kdray.objectives.sharded import ShardedBank
from tests.ranks import run_ranks

from .conftest import Listener, MakeLoop, build_loop, train_of
from .test_loop import same
from .test_sharded import SharedFeed

Phase = tuple[int, dict[str, Any], Train]
BANKS = {"mode": "memory", "negatives": 16, "positives": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"schedule": Schedule(type="cosine")},
    "ema-accumulate-clip": {"ema": 0.9, "accumulate": 2, "clip_norm": 0.5},
    "adamw-heads": {"optimizer": Optimizer(type="adamw", lr=0.003), "objectives": {"ce": {}, "fitnet": {}}},
    "banks": {"objectives": {"ce": {}, "clmkd.class_guided": BANKS}},
    "banks-of-crd": {"objectives": {"ce": {}, "crd": {"bank_samples": 8, "dim": 5}}},
    "deployed": {"objectives": {"simkd": {}}, "ema": 0.9},
    "buffers": {"objectives": {"ce": {}, "ofd": {}, "ctkd": {}}},
}


def plain(options: dict[str, Any]) -> tuple[dict[str, Any], Train]:
    train = train_of(**{key: value for key, value in options.items() if key != "objectives"})
    return options.get("objectives", {"ce": {}, "kd": {}}), train


def unchanging(options: dict[str, Any]) -> list[Phase]:
    objectives, train = plain(options)
    return [(1, objectives, train), (2, objectives, train)]


def changing(options: dict[str, Any]) -> list[Phase]:
    """Other weights and another learning rate from the second epoch on, other decay and clipping from the third."""
    objectives, train = plain(options)
    lighter = {name: params | {"weight": 0.25} for name, params in objectives.items()}
    slower = train.model_copy(update={"optimizer": train.optimizer.model_copy(update={"lr": 0.001})})
    decayed = slower.optimizer.model_copy(update={"weight_decay": 0.1})
    return [(1, lighter, slower), (2, lighter, slower.model_copy(update={"optimizer": decayed, "clip_norm": 0.1}))]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_phases_that_change_nothing_change_no_bit(make_loop: MakeLoop, options: dict[str, Any]) -> None:
    whole, phased = make_loop(**options).run(), make_loop(phases=unchanging(options), **options).run()
    assert same(whole, phased)
    for a, b in zip(whole.history, phased.history, strict=True):
        assert {k: v for k, v in a.items() if k.startswith(("loss", "lr"))} == {
            k: v for k, v in b.items() if k.startswith(("loss", "lr"))
        }


@pytest.mark.parametrize("stop_at", [9, 16])
@pytest.mark.parametrize("name", ["ema-accumulate-clip", "adamw-heads", "banks-of-crd", "deployed"])
def test_a_run_stopped_in_any_phase_goes_on_to_the_same_weights(make_loop: MakeLoop, name: str, stop_at: int) -> None:
    options = OPTIONS[name]
    phased = {**options, "phases": changing(options)}
    whole = make_loop(**phased).run()
    with pytest.raises(Interrupted):
        make_loop("run", listener=Listener(stop_at), **phased).run()
    resumed = make_loop("run", **phased).run()
    assert resumed.resumed_from > 0 and same(whole, resumed)
    assert [row["lr"] for row in resumed.history] == [row["lr"] for row in whole.history]
    assert not same(whole, make_loop(**options).run())


def test_what_holds_follows_the_phases_and_what_was_learned_stays(make_loop: MakeLoop) -> None:
    options: dict[str, Any] = {"objectives": {"ce": {}, "crd": {"bank_samples": 8, "dim": 5}}}
    loop = make_loop(phases=changing(options), **options)
    seen: list[dict[str, Any]] = []
    step, job = loop._step, loop.job
    first = next(iter(loop.optimizer.param_groups[0]["params"]))

    def watched(batch: Any) -> None:
        crd = job.trainable.objectives.members["crd"]
        momentum = loop.optimizer.state[first].get("momentum_buffer")
        step(batch)
        group = loop.optimizer.param_groups[0]
        seen.append(
            {
                "lr": group["lr"],
                "decay": group["weight_decay"],
                "clip": loop.train.clip_norm,
                "weight": crd.options.weight,
                "bank": crd.bank_student.vectors.data_ptr(),
                "momentum": None if momentum is None else momentum.data_ptr(),
                "z": crd.z_known,
            }
        )

    loop._step = watched  # type: ignore[method-assign]
    loop.run()
    for epoch, (lr, decay, clip, weight) in enumerate(
        [(0.05, 5e-4, None, 0.8), (0.001, 5e-4, None, 0.25), (0.001, 0.1, 0.1, 0.25)]
    ):
        for one in seen[6 * epoch : 6 * epoch + 6]:
            assert (one["lr"], one["decay"], one["clip"], one["weight"]) == (lr, decay, clip, weight)
    assert len({one["bank"] for one in seen}) == 1 and len({one["momentum"] for one in seen[1:]}) == 1
    assert all(one["z"] for one in seen)


def test_parameters_without_decay_stay_without_it(make_loop: MakeLoop) -> None:
    def train(decay: float) -> Train:
        return train_of(optimizer=Optimizer(lr=0.05, weight_decay=decay, decay_norm_and_bias=False))

    objectives = {"ce": {}, "kd": {}}
    loop = make_loop(optimizer=train(0.0).optimizer, phases=[(1, objectives, train(0.1)), (2, objectives, train(0.2))])
    loop.run()
    assert [group["weight_decay"] for group in loop.optimizer.param_groups] == [0.2, 0.0]


def test_a_member_without_state_comes_and_goes(make_loop: MakeLoop) -> None:
    with_kd, train = plain({})
    without = {"ce": {}, "kd": {"weight": 0}}
    outcome = make_loop(objectives=without, phases=[(1, with_kd, train), (2, without, train)]).run()
    assert ["loss/kd" in row for row in outcome.history] == [False, True, False]


def test_the_yardstick_of_divergence_begins_anew_with_a_phase(make_loop: MakeLoop) -> None:
    heavy = {"ce": {"weight": 100}}
    options: dict[str, Any] = {"objectives": {"ce": {}}, "optimizer": Optimizer(lr=1e-5), "divergence_factor": 20.0}
    phases = [(1, heavy, train_of(**{key: value for key, value in options.items() if key != "objectives"}))]
    outcome = make_loop(phases=phases, **options).run()
    totals = [row["loss/total"] for row in outcome.history]
    assert totals[1] > 50 * totals[0] and math.isfinite(totals[2])


def test_other_state_is_refused_at_the_border_too(make_loop: MakeLoop) -> None:
    _, train = plain({})
    wider = {"ce": {}, "crd": {"bank_samples": 8, "dim": 6}}
    loop = make_loop(objectives={"ce": {}, "crd": {"bank_samples": 8, "dim": 5}}, phases=[(1, wider, train)])
    with pytest.raises(ConfigError, match=r"phases: objectives\.crd: it changes the state .*\[5, 16\] to .*\[6, 16\]"):
        loop.run()


def test_a_checkpoint_goes_into_a_run_whose_phases_differ_from_there_on(make_loop: MakeLoop, tmp_path: Path) -> None:
    """What population based training does when a trial goes on from another's state."""
    options: dict[str, Any] = {
        "objectives": {"ce": {}, "crd": {"bank_samples": 8, "dim": 5}},
        "checkpoint": Checkpointing(every_epochs=1, every_minutes=None, keep=9),
        "ema": 0.9,
    }
    first, second = changing(options)
    make_loop("a", phases=[first, second], **options).run()
    objectives, train = first[1:]
    optimizer = train.optimizer.model_copy(update={"lr": 0.02, "weight_decay": 0.01})
    explored = (2, objectives | {"ce": {"weight": 2.0}}, train.model_copy(update={"optimizer": optimizer}))
    (tmp_path / "b/checkpoints").mkdir(parents=True)
    shutil.copy(tmp_path / "a/checkpoints/step-000000012.pt", tmp_path / "b/checkpoints")
    exploited = make_loop("b", phases=[first, explored], **options)
    outcome = exploited.run()
    assert outcome.resumed_from == 12 and outcome.history[2]["lr"] == 0.02
    assert exploited.optimizer.param_groups[0]["weight_decay"] == 0.01
    assert same(outcome, make_loop(phases=[first, explored], **options).run())


def worker(rank: int, folder: str) -> None:
    objectives = {"ce": {}, "crd": {"bank_samples": 8, "dim": 5, "bank": "sharded"}}
    train = train_of(epochs=2, optimizer=Optimizer(lr=0.01))
    lighter = {name: params | {"weight": 0.4} for name, params in objectives.items()}
    settings: dict[str, Any] = {"epochs": 2, "optimizer": train.optimizer, "feed": SharedFeed(rank, 2)}
    loop = build_loop(Path(folder), objectives=objectives, phases=[(1, lighter, train)], rank=rank, world=2, **settings)

    def banks() -> list[torch.Tensor]:
        return [module.vectors for module in loop.job.trainable.modules() if isinstance(module, ShardedBank)]

    before = banks()
    outcome = loop.run()
    assert len(before) == 2 and all(one is other for one, other in zip(before, banks(), strict=True))
    weights = {name: value.double().sum().item() for name, value in loop.job.trainable.named_parameters()}
    (Path(folder) / f"{rank}.json").write_text(json.dumps({"weights": weights, "rows": outcome.history}))


def test_all_ranks_change_together_and_sharded_banks_go_on(tmp_path: Path) -> None:
    run_ranks(worker, str(tmp_path))
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0]["weights"] == found[1]["weights"]
    first, second = found[0]["rows"]
    assert first["loss/total"] == pytest.approx(first["loss/ce"] + 0.8 * first["loss/crd"], rel=1e-4)
    assert second["loss/total"] == pytest.approx(0.4 * (second["loss/ce"] + second["loss/crd"]), rel=1e-4)
