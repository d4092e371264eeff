"""Runs whose banks are shared out go on with another number of workers; real processes over gloo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from kdray.data.batch import Batch
from kdray.experiment import Optimizer
from kdray.objectives.sharded import ShardedBank
from kdray.train.loop import Loop
from tests.ranks import run_ranks

from .conftest import DrawnFeed, build_loop

KINDS = ("replicated", "sharded")
BANK = "objectives.members.crd.bank_student.vectors"


class SharedFeed(DrawnFeed):
    """The worker's share of every batch; an epoch is all 48 samples, in three batches."""

    steps_per_epoch = 3

    def __init__(self, rank: int, world: int) -> None:
        super().__init__(batch=16)
        self.rank, self.world = rank, world

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(epoch, start):
            size = self.batch // self.world
            mine = slice(self.rank * size, (self.rank + 1) * size)
            fields = {name: getattr(batch, name)[mine] for name in ("images", "labels", "index", "ids")}
            yield replace(batch, **fields)


def loop_of(root: Path, kind: str, epochs: int, rank: int = 0, world: int = 1) -> Loop:
    memory = {"mode": "memory", "bank_samples": 8, "dim": 5, "bank": kind}
    objectives = {
        "ce": {},
        "crd": {"bank_samples": 8, "dim": 5, "bank": kind},
        "clmkd.gradient_relation": memory,
    }
    feed = SharedFeed(rank, world)
    return build_loop(
        root,
        kind,
        objectives=objectives,
        feed=feed,
        epochs=epochs,
        rank=rank,
        world=world,
        optimizer=Optimizer(lr=1e-4),
    )


def worker(rank: int, folder: str, epochs: int) -> None:
    for kind in KINDS:
        loop = loop_of(Path(folder), kind, epochs, rank, 2)
        assert loop.job.checkpoints is not None
        shards = [module for module in loop.job.trainable.modules() if isinstance(module, ShardedBank)]
        assert len(shards) == (0 if kind == "replicated" else 4)
        found = loop.job.checkpoints.load_latest()
        if found is None:
            dist.barrier()
            loop.run()
            continue
        loop.load_state_dict(found)
        loop.job.trainable.objectives.collect()
        if rank == 0:
            torch.testing.assert_close(loop.job.trainable.state_dict(), found["trainable"], rtol=0, atol=0)


def latest(root: Path, kind: str) -> dict[str, Any]:
    checkpoints = loop_of(root, kind, 1).job.checkpoints
    state = checkpoints.load_latest() if checkpoints else None
    assert state is not None
    return state


def same_run(root: Path) -> dict[str, Any]:
    """The latest state, which must not depend on how banks are kept (nor does it, as long as the learning rate is too
    low for rounding to grow)."""
    one, other = latest(root, "replicated"), latest(root, "sharded")
    assert one["position"] == other["position"] and list(one["trainable"]) == list(other["trainable"])
    torch.testing.assert_close(one["trainable"], other["trainable"], rtol=1e-3, atol=1e-4)
    return other


def test_two_workers_save_what_one_and_two_go_on_from(tmp_path: Path) -> None:
    run_ranks(worker, str(tmp_path), 1)
    saved = same_run(tmp_path)
    assert saved["position"]["epoch"] == 1 and saved["trainable"][BANK].shape == (48, 5)
    start = loop_of(tmp_path, "sharded", 2)
    before = start.job.trainable.state_dict()[BANK].clone()
    assert (saved["trainable"][BANK] != before).any(dim=1).all()  # every sample has been met, on either worker
    start.load_state_dict(saved)
    torch.testing.assert_close(start.job.trainable.state_dict(), saved["trainable"], rtol=0, atol=0)

    for kind in KINDS:
        assert loop_of(tmp_path, kind, 2).run().resumed_from == 3
    assert same_run(tmp_path)["position"]["epoch"] == 2

    run_ranks(worker, str(tmp_path), 3)  # two workers load what one saved, and hold it
