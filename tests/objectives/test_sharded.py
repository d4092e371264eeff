"""Banks shared out among workers; real processes over gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdray.objectives import ObjectiveSet
from kdray.objectives import bank as bank_module
from kdray.objectives import sharded as sharded_module
from kdray.objectives.bank import Bank
from kdray.objectives.gather import gather_rows, world
from kdray.objectives.sharded import SPARE, ShardedBank, bytes_per_worker, make_bank
from tests.ranks import run_ranks

from .cases import make_case, make_setup

WORKERS, DIM, ROWS, SLOTS = 3, 5, 4, 6
SIZES = (10, 4)  # the last worker holds 2 rows of 4, and none of 2


def seeded(seed: int, kind: Any, samples: int) -> Bank:
    torch.manual_seed(seed)
    make_bank(kind, samples, DIM)  # the second one of a method starts where the first one's numbers end
    return make_bank(kind, samples, DIM)


def compare(samples: int) -> None:
    """Every operation of a sharded bank against the replicated one, which has all rows, on every worker."""
    rank, _ = world()
    whole, shard = seeded(1, "replicated", samples), seeded(1, "sharded", samples)
    assert isinstance(shard, ShardedBank) and type(whole) is Bank
    share = -(-samples // WORKERS)
    assert shard.vectors.shape == (share + SPARE, DIM)
    own = whole.vectors[rank * share : (rank + 1) * share]
    assert torch.equal(shard.vectors[: len(own)], own) and not shard.vectors[len(own) :].any()
    with pytest.raises(RuntimeError, match="collect"):
        shard.state_dict()

    torch.manual_seed(7 + rank)
    for step in range(2):
        index, rows = torch.randint(0, samples, (ROWS, SLOTS)), torch.randn(ROWS, DIM)
        weights = torch.randn(ROWS, SLOTS)
        located = shard.locate(index)
        assert torch.equal(whole.locate(index), index)
        torch.testing.assert_close(shard.scores(rows, located), whole.scores(rows, index))
        torch.testing.assert_close(shard.combine(weights, located), whole.combine(weights, index))
        assert torch.equal(shard.read(index), whole.read(index))
        common = (torch.arange(5) * 3 + step) % samples
        assert torch.equal(shard.read_common(common), whole.read_common(common))
        everyone = gather_rows(index[:, 0]), gather_rows(rows)  # repeats are likely
        whole.update(*everyone, 0.3)
        shard.update(*everyone, 0.3)
        assert torch.equal(shard.vectors[: len(own)], whole.vectors[rank * share : (rank + 1) * share])
        assert not shard.vectors[len(own) :].any()

    shard.collect()
    if rank == 0:
        state = shard.state_dict()
        assert torch.equal(state["vectors"], whole.vectors) and list(state) == ["vectors"]
        one = Bank(samples, DIM)
        one.load_state_dict(state)
        assert torch.equal(one.vectors, whole.vectors)
    again = seeded(2, "sharded", samples)
    again.load_state_dict(whole.state_dict())
    assert torch.equal(again.vectors, shard.vectors)
    with pytest.raises(RuntimeError, match="a whole bank is"):
        again.load_state_dict({"vectors": torch.zeros(samples + 1, DIM)})
    with pytest.raises(RuntimeError, match="Missing key"):
        again.load_state_dict({})
    shard.update(*everyone, 0.3)
    with pytest.raises(RuntimeError, match="collect"):  # what was collected is old now
        shard.state_dict()


def worker(rank: int, folder: str) -> None:
    for samples in SIZES:
        compare(samples)
    bank_module._DENSE_FACTOR, bank_module._CHUNK_BYTES, sharded_module._CHUNK_BYTES = 0, 1, 1
    compare(SIZES[0])
    objectives = ObjectiveSet({"crd": {"dim": 3, "bank_samples": 4, "bank": "sharded"}}, make_setup())
    objectives.collect()
    if rank == 0:
        torch.save(objectives.state_dict(), f"{folder}/start.pt")


def test_three_workers_hold_what_one_does(tmp_path: Path) -> None:
    run_ranks(worker, str(tmp_path), world=WORKERS)
    replicated = ObjectiveSet({"crd": {"dim": 3, "bank_samples": 4}}, make_setup()).state_dict()
    start = torch.load(tmp_path / "start.pt", weights_only=True)
    torch.testing.assert_close(start, replicated, rtol=0, atol=0, equal_nan=True)
    largest = max(value.numel() * value.element_size() for value in replicated.values())
    assert (tmp_path / "start.pt").stat().st_size < 2 * largest + 10_000  # no padding in it


@pytest.mark.parametrize(
    "params",
    [
        {"type": "crd", "bank_samples": 6},
        {"type": "crcd", "bank_samples": 6, "anchors": 3},
        {"type": "clmkd.class_guided", "positives": 3, "negatives": 6},
        {"type": "clmkd.gradient_relation", "mode": "memory", "bank_samples": 6},
    ],
    ids=lambda params: params["type"],
)
def test_one_worker_takes_the_same_steps_either_way(params: dict[str, Any]) -> None:
    setup = make_setup()
    case, totals = make_case(setup, dtype=torch.float32), []
    for kind in ("replicated", "sharded"):
        objectives = ObjectiveSet({"one": {**params, "bank": kind}}, setup)
        objectives.collect()
        totals.append(torch.stack([case.run(objectives).total for _ in range(2)]))
        totals.append(torch.cat([value.flatten() for value in objectives.state_dict().values()]))
    assert torch.equal(totals[0], totals[2]) and torch.equal(totals[1], totals[3])


def test_a_share_is_what_is_counted() -> None:
    assert bytes_per_worker("replicated", 1000, 16, 8) == bytes_per_worker("sharded", 1000, 16, 1) == 64_000
    assert bytes_per_worker("sharded", 1000, 16, 8) == (125 + SPARE) * 64
    assert bytes_per_worker("sharded", 10, DIM, WORKERS) == (4 + SPARE) * DIM * 4
