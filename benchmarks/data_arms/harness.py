"""What every arm is run by: it times the passes, counts CPU seconds of the whole process tree, and checks the work.

An arm gives a function from the job to a function that yields the batches of one pass. What is found is printed, a JSON
line for each pass; `benchmarks/data.py` reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Job:
    """What an arm is to do: passes over the `images` at `root` in batches of `batch`, on `cores` cores.

    `option` is what tells the cases of one script apart.
    """

    root: str
    images: int
    batch: int
    cores: int
    seed: int
    option: str


@dataclass(frozen=True)
class Seen:
    """What one batch was: its `shape`, its `dtype`, and the mean of a few of its pixels in 0..255."""

    shape: tuple[int, ...]
    dtype: str
    mean: float


def seen(images: torch.Tensor) -> Seen:
    """Look at a batch [n, 3, H, W], uint8 or normalised float; a 256th of its pixels is read."""
    import torch

    few = images[:, :, ::16, ::16]
    if images.dtype == torch.uint8:
        return Seen(tuple(images.shape), "uint8", few.float().mean().item())
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return Seen(tuple(images.shape), str(images.dtype).removeprefix("torch."), (few * std + mean).mean().item() * 255)


def children(root: int) -> list[int]:
    """`root` and all processes below it."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                parents.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for process in found:
        found += parents.get(process, [])
    return found


def _stat(process: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; none for a process that has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds(roots: Iterable[int]) -> float:
    """CPU seconds, user and system, that the trees of `roots` took so far, with those of children that have ended."""
    stats = [_stat(process) for root in roots for process in children(root)]
    return sum(int(ticks) for fields in stats if fields for ticks in fields[11:15]) / _TICKS


def run(arm: Callable[[Job], Callable[[int], Iterable[Any]]]) -> None:
    """Run an arm's passes. The first one warms up, and is where its batches are looked at; others follow, untimed,
    until `--warm-s` are over, for Ray's own processes go on starting beside the first images.
    """
    cli = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    cli.add_argument("--root", required=True, help="where the data lies, in the arm's own layout")
    cli.add_argument("--images", type=int, required=True)
    cli.add_argument("--batch", type=int, default=64)
    cli.add_argument("--cpus", default="", help="numbers of the cores to run on, as 0,1 (default: all)")
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--passes", type=int, default=2)
    cli.add_argument("--warm-s", type=float, default=0.0, help="untimed passes follow the first one for so long")
    cli.add_argument("--option", default="")
    cli.add_argument("--started", type=float, default=time.time(), help="when the command was given, seconds of time()")
    cli.add_argument("--server", type=int, nargs="*", default=[], help="process ids of the storage server")
    args = cli.parse_args()
    if args.cpus:
        os.sched_setaffinity(0, {int(number) for number in args.cpus.split(",")})
    cores = len(os.sched_getaffinity(0))
    one_pass = arm(Job(args.root, args.images, args.batch, cores, args.seed, args.option))
    began = time.perf_counter()
    print(json.dumps({"pass": 0, **_timed(one_pass, 0, args)}), flush=True)
    warm = 1
    while time.perf_counter() - began < args.warm_s:
        for _ in one_pass(warm):
            pass
        warm += 1
    for number in range(1, args.passes):
        print(json.dumps({"pass": number, **_timed(one_pass, warm + number - 1, args)}), flush=True)


def _timed(one_pass: Callable[[int], Iterable[Any]], number: int, args: argparse.Namespace) -> dict[str, Any]:
    look, images, shapes, dtypes, means = number == 0, 0, set(), set(), []
    first_batch_s, at_first = 0.0, 0.0
    cpu, server, start = cpu_seconds([os.getpid()]), cpu_seconds(args.server), time.perf_counter()
    for batch in one_pass(number):
        if not images:
            first_batch_s, at_first = time.perf_counter() - start, time.time() - args.started
        images += batch.shape[0]
        if look:
            what = batch if isinstance(batch, Seen) else seen(batch)
            shapes.add(what.shape[1:])
            dtypes.add(what.dtype)
            means.append(what.mean)
    wall = time.perf_counter() - start
    found: dict[str, Any] = {
        "images": images,
        "wall_s": wall,
        "first_batch_s": first_batch_s,
        "command_to_first_batch_s": at_first,
        "cpu_s_per_image": (cpu_seconds([os.getpid()]) - cpu) / max(1, images),
        "server_cpu_s_per_image": (cpu_seconds(args.server) - server) / max(1, images),
    }
    if look:
        found |= {"shapes": sorted(map(list, shapes)), "dtypes": sorted(dtypes), "mean": sum(means) / len(means)}
    return found
