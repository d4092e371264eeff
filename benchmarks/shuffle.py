"""How well a window shuffles: what stands together in a batch, beside a full shuffle. No image is needed.

    python benchmarks/shuffle.py --out benchmarks/records/shuffle.json

ImageNet's size: 1,281,167 rows of 110 kB in 1,000 classes, row groups of 64, once with shards sorted by class and once
in the order of a hash, as `kdray shard` packs. The orders are those that training takes (`kdray.data.order`).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from kdray.data.layout import Manifest, ShardColumns, ShardInfo
from kdray.data.order import epoch_order
from kdray.pipeline.record import hardware, now, versions

CLASSES, ROWS, ROW_BYTES, GROUP_ROWS, SHARD_ROWS = 1000, 1_281_167, 110_000, 64, 640
WINDOWS_MIB = (16, 64, 256, 1024)
EPOCHS = (0, 1)


def imagenet() -> Manifest:
    """ImageNet's shards, without files."""
    shards = []
    for number, first in enumerate(range(0, ROWS, SHARD_ROWS)):
        rows = min(SHARD_ROWS, ROWS - first)
        groups = tuple(min(GROUP_ROWS, rows - at) for at in range(0, rows, GROUP_ROWS))
        shards.append(ShardInfo(f"train-{number:05}.parquet", rows, rows * ROW_BYTES, groups))
    total = ROWS * ROW_BYTES
    return Manifest("mem:", "mem:", tuple(shards), ShardColumns(), CLASSES, None, None, None, total, "synthetic")


def class_mix(labels: np.ndarray, batch: int) -> dict[str, float]:
    """What the batches of an epoch hold, whose labels in order are `labels` int64 [n].

    `distinct`: classes in a batch. `total_variation`: half the summed difference between a batch's shares of the
    classes and the set's. `chi_square`: Pearson's statistic of a batch over its degrees of freedom, 1 for draws by
    chance. `next_batch`: correlation of a batch's class counts with those of the next.
    """
    steps = len(labels) // batch
    batches = labels[: steps * batch].reshape(steps, batch)
    expected = batch * np.bincount(labels, minlength=CLASSES) / len(labels)
    sums = np.zeros(3)
    correlations = []
    before: np.ndarray | None = None
    for row in batches:
        counts = np.bincount(row, minlength=CLASSES)
        excess = counts - expected
        sums += [(counts > 0).sum(), np.abs(excess).sum() / 2 / batch, (excess**2 / expected).sum() / (CLASSES - 1)]
        if before is not None:
            correlations.append(float(before @ excess / np.sqrt((before @ before) * (excess @ excess))))
        before = excess
    means = dict(zip(("distinct", "total_variation", "chi_square"), (sums / steps).tolist(), strict=True))
    return {**means, "next_batch": float(np.mean(correlations))}


def together_again(one: np.ndarray, other: np.ndarray, batch: int) -> float:
    """How much likelier than by chance two rows of a batch meet in a batch of the next epoch: 1 is a full shuffle."""
    steps = len(one) // batch
    batch_of = np.full(ROWS, -1)
    batch_of[other[: steps * batch]] = np.arange(steps * batch) // batch
    met = pairs = 0
    for row in one[: steps * batch].reshape(steps, batch):
        numbers = batch_of[row]
        counts = np.unique(numbers[numbers >= 0], return_counts=True)[1]
        met += int((counts * (counts - 1) // 2).sum())
        pairs += len(numbers) * (len(numbers) - 1) // 2
    return met / pairs / ((batch - 1) / (ROWS - 1))


def measure(batch: int, seed: int) -> list[dict[str, Any]]:
    """A row for every order of the shards and every window, and one for a full shuffle."""
    manifest, everything = imagenet(), np.arange(ROWS)
    by_class = everything * CLASSES // ROWS
    by_hash = np.random.default_rng(seed).permutation(by_class)
    results: list[dict[str, Any]] = []

    def add(shards: str, window: int | None, labels: np.ndarray, orders: list[np.ndarray], seconds: float) -> None:
        row = {"shards": shards, "window_mib": window, "plan_s": round(seconds, 3)}
        row |= {name: round(value, 4) for name, value in class_mix(labels[orders[0]], batch).items()}
        row["together_again"] = round(together_again(*orders, batch), 3)
        results.append(row)
        print(json.dumps(row), flush=True)

    rng = np.random.default_rng(seed + 1)
    add("any", None, by_class, [rng.permutation(ROWS) for _ in EPOCHS], 0.0)
    for window in WINDOWS_MIB:
        started = time.perf_counter()
        orders = [epoch_order(manifest, everything, seed, epoch, window * 1024**2).index for epoch in EPOCHS]
        seconds = (time.perf_counter() - started) / len(EPOCHS)
        for shards, labels in (("by class", by_class), ("by hash", by_hash)):
            add(shards, window, labels, orders, seconds)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    record = {
        "benchmark": "shuffle",
        "settings": {
            "batch": args.batch,
            "seed": args.seed,
            "rows": ROWS,
            "classes": CLASSES,
            "row_bytes": ROW_BYTES,
            "row_group_rows": GROUP_ROWS,
        },
        "results": measure(args.batch, args.seed),
        "finished": now(),
        "hardware": hardware(),
        "versions": versions(),
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
