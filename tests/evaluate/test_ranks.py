"""Two processes count what one counts, and judge one and the same network."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from kdray.evaluate.accuracy import evaluate
from kdray.train.precision import Precision
from tests.evaluate.test_accuracy import CPU, Feed, Table, prepare

ROWS = 51


class Shifted(Table):
    """Its buffer decides the answer; each rank starts with another one."""

    def __init__(self, logits: torch.Tensor, shift: float) -> None:
        super().__init__(logits)
        self.norm = nn.BatchNorm1d(1)
        self.register_buffer("shift", torch.tensor([shift, 0.0, 0.0, 0.0]))

    def forward(self, images: torch.Tensor):  # type: ignore[no-untyped-def]
        outputs = super().forward(images)
        outputs.logits = outputs.logits + self.shift
        return outputs


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(ROWS, 4, generator=generator), torch.randint(0, 4, (ROWS,), generator=generator)


class Share(Feed):
    """A rank's part of all rows."""

    def __init__(self, labels: torch.Tensor, rank: int, world: int) -> None:
        super().__init__(labels, 8)
        self.mine = torch.arange(len(labels))[rank * len(labels) // world : (rank + 1) * len(labels) // world]

    def __iter__(self):  # type: ignore[no-untyped-def]
        for batch in super().__iter__():
            keep = torch.isin(batch.index, self.mine)
            batch.images, batch.labels = batch.images[keep], batch.labels[keep]
            if len(batch.labels):
                yield batch


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        logits, labels = problem()
        net = Shifted(logits, shift=0.5 + rank)
        result = evaluate(net, Share(labels, rank, 2), prepare, Precision("fp32", "cpu"), CPU)  # type: ignore[arg-type]
        torch.save(result, os.path.join(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


def test_two_ranks_count_what_one_counts(tmp_path: Path) -> None:
    other = mp.get_context("spawn").Process(target=work, args=(1, str(tmp_path)))
    other.start()
    work(0, str(tmp_path))
    other.join(60)
    assert other.exitcode == 0
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    logits, labels = problem()
    # Rank 0's statistics are the ones that count.
    alone = evaluate(Shifted(logits, 0.5), Feed(labels, 8), prepare, Precision("fp32", "cpu"), CPU)  # type: ignore[arg-type]
    assert found[0] == found[1]
    for key in ("top1", "top5", "images", "bad_images"):
        assert found[0][key] == alone[key]
    assert abs(found[0]["nll"] - alone["nll"]) < 1e-6
