"""What it takes to start one trial after another on the same resident images, with and without sharing them.

    python benchmarks/resident.py --data "cifar100/train-*.parquet" --out benchmarks/records/resident-cpu.json
    python benchmarks/resident.py --table

Each trial is a process of a Ray cluster on this machine, and stays. It builds the train feed of all images under
pad_crop and flip and takes a batch: seconds are counted from there, when its imports are done, and CPU seconds of all
processes of the cluster. Memory is what the sum of PSS over all of them grows by. Both arms run in one go and take
turns, round after round; medians are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "data_arms"))
from harness import children, cpu_seconds
from ray_start import start

from kdray.pipeline.record import commit, hardware, now, versions

RECORD = Path(__file__).parent / "records" / "resident-cpu.json"
BATCH = 64
FIGURES = ("start_s", "cpu_s", "memory_mb")
SAID = ("seconds to the first batch", "CPU seconds", "memory, MB")


class Trial:
    """A trial's process."""

    def ready(self, uri: str) -> None:
        """Import what a trial needs, and read the manifest."""
        import torch  # noqa: F401

        from kdray.data.manifest import read_manifest
        from kdray.data.resident import ResidentTrainFeed  # noqa: F401

        self.manifest = read_manifest(uri)

    def begin(self, uri: str, sharing: Any) -> float:
        """Build the feed, take a batch, return the seconds."""
        import numpy as np

        from kdray.data.feed import train_feed
        from kdray.data.shared import install
        from kdray.experiment import Data

        data = Data(train=uri, mode="resident", augment=["pad_crop", "flip"])
        began = time.perf_counter()
        with install(sharing):
            rows = np.arange(self.manifest.num_samples)
            self.feed = train_feed(data, self.manifest, rows, batch=BATCH, seed=0)
            next(self.feed.epoch(0))
        return time.perf_counter() - began


def memory_mb() -> float:
    """Sum of PSS of this process and all below it."""
    kib = 0
    for process in children(os.getpid()):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has ended
        kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib * 1024 / 1e6


def measure(uri: str, trials: int, cores: int, share: bool) -> list[dict[str, float]]:
    """The figures of each trial, in the order of their starts, on a cluster of their own: memory that an object store
    once had stays with it.
    """
    start(cores)
    import ray

    from kdray.data.ray_shared import start_sharing

    sharing = start_sharing() if share else None
    processes = [ray.remote(Trial).options(num_cpus=0).remote() for _ in range(trials)]
    ray.get([process.ready.remote(uri) for process in processes])
    if sharing is not None:
        ray.get(sharing._holder.held.remote())  # it has started, as it has by the time that a sweep's trials have
    time.sleep(2.0)  # what has just started goes on for a moment
    found = []
    for process in processes:
        memory, cpu = memory_mb(), cpu_seconds([os.getpid()])
        seconds = ray.get(process.begin.remote(uri, sharing))
        found.append({"start_s": seconds, "cpu_s": cpu_seconds([os.getpid()]) - cpu, "memory_mb": memory_mb() - memory})
    ray.shutdown()
    return found


def table(record: dict[str, Any]) -> list[str]:
    """The table of docs/performance.md."""
    lines = ["| trial | " + " | ".join(f"{said}: alone | shared" for said in SAID) + " |", "|---|" + "---|" * 6]
    for number, (alone, shared) in enumerate(zip(record["alone"], record["shared"], strict=True), 1):
        values = [f"{arm[name]:.{0 if name == 'memory_mb' else 1}f}" for name in FIGURES for arm in (alone, shared)]
        lines.append(f"| {number} | " + " | ".join(values) + " |")
    return lines


def main() -> None:
    """Measure and write the record, or print the table of the committed one."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", help="shards")
    cli.add_argument("--trials", type=int, default=3)
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument("--out", type=Path)
    cli.add_argument("--table", action="store_true", help="print the table of resident-cpu.json")
    args = cli.parse_args()
    if args.table:
        print("\n".join(table(json.loads(RECORD.read_text()))))
        return
    if not args.data or not args.out:
        cli.error("--data and --out are needed")
    cores = len(os.sched_getaffinity(0))
    from kdray.data.manifest import read_manifest

    manifest = read_manifest(args.data)
    rounds: dict[str, list[list[dict[str, float]]]] = {"alone": [], "shared": []}
    for _ in range(args.rounds):
        for arm, found in rounds.items():
            found.append(measure(args.data, args.trials, cores, arm == "shared"))
    medians = {
        arm: [
            {name: statistics.median(one[trial][name] for one in found) for name in FIGURES}
            for trial in range(args.trials)
        ]
        for arm, found in rounds.items()
    }
    size = manifest.image_bytes / manifest.num_samples / 1e3
    record = {
        "command": "benchmarks/resident.py",
        "data": f"--data: {manifest.num_samples} images, {size:.1f} kB each",
        "seed": 0,
        "when": now(),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "cores": cores,
        "rounds": rounds,
        **medians,
    }
    part = args.out.with_name(args.out.name + ".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(part, args.out)
    print("\n".join(table(record)))


if __name__ == "__main__":
    main()
