"""Time, peak memory and state of one step of every method, forward and backward, as ratios to `kd` in the same process.

    python benchmarks/objectives.py --shape cifar --out benchmarks/records/objectives-cifar-cpu.json
    python benchmarks/objectives.py --shape imagenet --methods crd review --rounds 3

`cifar`: B = 64, C = 100, d = 256, N = 50,000, the stages of ResNet32x4. `imagenet`: B = 256, C = 1000, d = 2048,
N = 1,281,167, the stages of ResNet-50. Outputs of the networks are made up, the networks themselves take no part. A
method of V views is given V*B rows; `kd` always has one view. Every method runs in a process of its own, where its
steps and kd's take turns; peak memory is what one step takes above all that stood before it (inputs, banks, weights).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdray.models.outputs import ModelInfo, Outputs
from kdray.objectives import ObjectiveSet, Setup, StepInfo, Targets, methods, needs
from kdray.pipeline.record import hardware, now, versions


@dataclass(frozen=True)
class Shape:
    """The sizes of one comparison."""

    batch: int
    classes: int
    width: int
    samples: int
    stages: tuple[tuple[int, int, int], ...]


SHAPES = {
    "cifar": Shape(64, 100, 256, 50_000, ((64, 32, 32), (128, 16, 16), (256, 8, 8))),
    "imagenet": Shape(256, 1000, 2048, 1_281_167, ((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))),
}
FORMS: dict[str, dict[str, Any]] = {
    "clmkd.class_guided, inbatch": {"type": "clmkd.class_guided", "mode": "inbatch"},
    "clmkd.gradient_relation, memory": {"type": "clmkd.gradient_relation", "mode": "memory"},
}
"""Forms beside the defaults that cost something else."""


def forms() -> dict[str, dict[str, Any]]:
    """Every method at its defaults, and `FORMS`."""
    return dict(sorted(({name: {"type": name} for name in methods()} | FORMS).items()))


class Step:
    """One objective with one batch made up for it; calling it runs forward and backward."""

    def __init__(self, params: dict[str, Any], shape: Shape, device: torch.device) -> None:
        # Warm-ups would make a first step cost nothing.
        wanted = needs({"one": params})
        views = wanted.min_views
        labels = np.random.default_rng(0).integers(0, shape.classes, shape.samples)
        info = ModelInfo("made up", shape.classes, shape.width, shape.stages)
        setup = Setup(shape.classes, shape.samples, info, info, labels, shape.batch, 100, seed=0, views=views)
        generator = torch.Generator(device=device).manual_seed(0)
        self.objectives = ObjectiveSet({"one": params}, setup).to(device)
        self.state_bytes = sum(x.numel() * x.element_size() for x in self.objectives.buffers())
        self.parameters = sum(x.numel() for x in self.objectives.parameters())
        self.views = views
        self.heads = [nn.Linear(shape.width, shape.classes).to(device) for _ in range(2)]

        def network(grad: bool) -> Outputs:
            def tensor(*size: int) -> torch.Tensor:
                x = torch.randn(views * shape.batch, *size, generator=generator, device=device)
                return x.requires_grad_(grad)

            maps = [tensor(*one) for one in shape.stages] if wanted.stages or wanted.preact else []
            return Outputs(tensor(shape.classes), tensor(shape.width), maps, maps if wanted.preact else [])

        self.student, self.teacher = network(True), network(False) if wanted.teacher else None
        index = torch.randperm(shape.samples, generator=torch.Generator().manual_seed(1))[: shape.batch]
        where = torch.from_numpy(labels)[index].to(device), index.to(device)
        self.targets = Targets(*where, views)
        self.number = 0

    def __call__(self) -> None:
        self.number += 1
        step = StepInfo(epoch=50.0, epochs=100, step=self.number, seed=0)
        report = self.objectives(self.targets, self.student, self.teacher, *self.heads, step)
        report.total.backward()
        leaves = [self.student.logits, self.student.pooled, *self.student.stages, *self.objectives.parameters()]
        for leaf in leaves:
            leaf.grad = None


def seconds(step: Callable[[], None], device: torch.device) -> float:
    """Wall clock of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_bytes(step: Callable[[], None], device: torch.device) -> int | None:
    """What one call takes at its highest above what stands before it; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    marks = Path("/proc/self/clear_refs")
    if not marks.exists():
        return None
    marks.write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    step()
    return max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Everything about one form, in this process."""
    device, shape = torch.device(args.device), SHAPES[args.shape]
    torch.set_num_threads(args.threads)
    if args.memory_gib:  # rather no figure than a machine that hangs
        methods()  # what is imported does not count
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + int(args.memory_gib * 1024**3),) * 2)
    method, kd = Step(forms()[name], shape, device), Step({"type": "kd"}, shape, device)
    first = seconds(method, device)  # it sets up as well
    kd()
    times: dict[str, list[float]] = {"method": [], "kd": []}
    deadline = time.perf_counter() + args.seconds
    # A step that takes longer than all the time there is stands for itself.
    least = 3 if first < args.seconds else 1
    while len(times["method"]) < args.rounds and (len(times["method"]) < least or time.perf_counter() < deadline):
        times["method"].append(seconds(method, device))
        times["kd"].append(statistics.median(seconds(kd, device) for _ in range(5)))
    return {
        "ms": 1e3 * statistics.median(times["method"]),
        "kd_ms": 1e3 * statistics.median(times["kd"]),
        "ratio_to_kd": statistics.median(a / b for a, b in zip(times["method"], times["kd"], strict=True)),
        "rounds": len(times["method"]),
        "peak_bytes": peak_bytes(method, device),
        "state_bytes": method.state_bytes,
        "parameters": method.parameters,
        "views": method.views,
    }


def main() -> None:
    """Measure all methods, each in a process of its own, and write the record."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--shape", choices=tuple(SHAPES), default="cifar")
    cli.add_argument("--device", default="cpu")
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--rounds", type=int, default=30, help="at most so many steps of each")
    cli.add_argument("--seconds", type=float, default=5.0, help="and about so long, but three steps at least")
    cli.add_argument("--memory-gib", type=float, help="a method that needs more gets no figures")
    cli.add_argument("--methods", nargs="+", help="only these; the others' rows in OUT stay")
    cli.add_argument("--one", help=argparse.SUPPRESS)
    cli.add_argument("--out", type=Path)
    args = cli.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args)))
        return
    chosen = args.methods or list(forms())
    before = json.loads(args.out.read_text())["rows"] if args.out and args.methods and args.out.exists() else {}
    rows: dict[str, Any] = {}
    # Freed blocks go back to the system at once: else the peak of a step would hide in what an earlier one left.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    for name in chosen:
        options = ["--shape", args.shape, "--device", args.device, "--threads", str(args.threads)]
        options += ["--rounds", str(args.rounds), "--seconds", str(args.seconds), "--one", name]
        options += ["--memory-gib", str(args.memory_gib)] if args.memory_gib else []
        done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, env=environment)
        rows[name] = _row(name, done, args.memory_gib)
        if args.out:  # after every method: the next one may be one too many
            args.out.write_text(json.dumps(_record(args, before | rows), indent=1) + "\n")


def _row(name: str, done: subprocess.CompletedProcess[str], memory_gib: float | None) -> dict[str, Any]:
    if done.returncode:
        if "can't allocate memory" not in done.stderr and "MemoryError" not in done.stderr:
            sys.exit(f"{name}: {done.stderr.strip()}")
        print(f"{name}: needs more than {memory_gib} GiB", flush=True)
        return {"needs_more_than_gib": memory_gib}
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    peak = "?" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.1f}"
    state = f"{row['state_bytes'] / 1e6:.1f}"
    speed = f"{row['ms']:.2f} ms, {row['ratio_to_kd']:.1f} x kd"
    print(f"{name}: {speed}, peak {peak} MB, state {state} MB", flush=True)
    return row


def _record(args: argparse.Namespace, rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "benchmark": "objectives",
        "command": ["benchmarks/objectives.py", *sys.argv[1:]],
        "time": now(),
        "shape": args.shape,
        "sizes": vars(SHAPES[args.shape]),
        "device": args.device,
        "threads": args.threads,
        "seed": 0,
        "hardware": hardware(),
        "versions": versions(),
        "rows": dict(sorted(rows.items())),
    }


if __name__ == "__main__":
    main()
