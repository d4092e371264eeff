"""Which processes the stream's CPU time goes to, image by image, and how many page faults they take.

    python benchmarks/processes.py --root PACKED_SHARDS --out benchmarks/records/processes-cpu.json

ROOT is a folder of shards, such as `benchmarks/data.py` leaves in its work folder (`layouts-*/packed`). The feed of
one training worker runs through Ray as in `data_arms/kdray_feed.py`; after passes that warm it up, four are looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "data_arms"))
from harness import SIZE, children
from ray_start import start

from kdray.pipeline.record import commit, hardware, now, versions

BATCH, WARM_S, PASSES = 64, 15.0, 4
TICKS = os.sysconf("SC_CLK_TCK")
MINOR_FAULTS, USER, SYSTEM = 7, 11, 12  # fields of /proc/PID/stat behind the name
ROLES = {"ray::Decoder": "decoders", "ray::Reader": "reader"}


def role(process: int) -> str:
    """What a process is for."""
    if process == os.getpid():
        return "training worker"
    command = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    return next((role for name, role in ROLES.items() if command.startswith(name)), "Ray")


def look() -> dict[int, tuple[str, list[int]]]:
    """Role, and ticks and faults so far, of this process and all below it."""
    found = {}
    for process in children(os.getpid()):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            found[process] = role(process), [int(fields[at]) for at in (USER, SYSTEM, MINOR_FAULTS)]
        except OSError:
            continue  # it has ended
    return found


def main() -> None:
    """Measure and write the record."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--root", required=True)
    cli.add_argument("--out", type=Path, required=True)
    args = cli.parse_args()
    cores = len(os.sched_getaffinity(0))
    start(cores)
    import numpy as np

    from kdray.data.feed import train_feed
    from kdray.data.manifest import read_manifest
    from kdray.experiment import Data

    manifest = read_manifest(args.root)
    data = Data(train=args.root, mode="stream", augment=[{"random_resized_crop": {"size": SIZE}}, "flip"])
    rows = np.arange(manifest.num_samples)
    feed = train_feed(data, manifest, rows, batch=BATCH, seed=0, use_ray=True, data_cpus=float(cores))
    began, epoch = time.perf_counter(), 0
    while time.perf_counter() - began < WARM_S:
        for _ in feed.epoch(epoch):
            pass
        epoch += 1
    before, began, images = look(), time.perf_counter(), 0
    for number in range(epoch, epoch + PASSES):
        images += sum(len(batch.images) for batch in feed.epoch(number))
    wall, after = time.perf_counter() - began, look()
    totals: dict[str, list[int]] = {}
    for process, (what, counts) in after.items():
        past = before.get(process, (what, [0, 0, 0]))[1]
        total = totals.setdefault(what, [0, 0, 0])
        totals[what] = [t + c - p for t, c, p in zip(total, counts, past, strict=True)]
    found: dict[str, Any] = {
        what: {
            "cpu_ms_per_image": 1e3 * (user + system) / TICKS / images,
            "system_ms_per_image": 1e3 * system / TICKS / images,
            "page_faults_per_image": faults / images,
        }
        for what, (user, system, faults) in totals.items()
    }
    size = manifest.image_bytes / manifest.num_samples / 1e3
    record = {
        "command": "benchmarks/processes.py",
        "data": f"--root: {manifest.num_samples} images, {size:.0f} kB each",
        "seed": 0,
        "when": now(),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "cores": cores,
        "images_per_s": images / wall,
        "processes": found,
    }
    part = args.out.with_name(args.out.name + ".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(part, args.out)
    print(json.dumps({key: record[key] for key in ("images_per_s", "processes")}, indent=1))


if __name__ == "__main__":
    main()
