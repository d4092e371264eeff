"""The loop on a GPU, as a share of the roofline measured on the same card in the same run. Needs torch, not Ray.

    python benchmarks/gpu.py --out gpu.json

Two cases: ResNet-34 -> ResNet-18 at 224 px (uint8 batches that lie on the card: the loop alone is measured), and
ResNet-56 -> ResNet-20 at 32 px (resident data: crops and flips gathered on the card, as the resident feed does).
bf16, channels_last, compile off and on.
Roofline: 1 / (1 / teacher forward + 1 / student train step), each measured alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from kdray.data.batch import Batch
from kdray.experiment import Checkpointing, ModelSpec, Optimizer, Train
from kdray.models.zoo import build
from kdray.objectives import ObjectiveSet, Setup
from kdray.train.frozen import freeze
from kdray.train.job import Job
from kdray.train.loop import Loop
from kdray.train.precision import Precision
from kdray.train.task import Pixels, Trainable

PIXELS = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CASES = {
    "resnet34-resnet18-224": ("torchvision/resnet34", "torchvision/resnet18", 224, 1000, 256),
    "resnet56-resnet20-32": ("resnet56", "resnet20", 32, 100, 512),
}


class Quiet:
    """A listener that keeps the epochs."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []

    def event(self, kind: str, values: dict[str, Any]) -> None:
        if kind == "epoch":
            self.epochs.append(values)

    def stop_requested(self) -> bool:
        return False


class CardFeed:
    """Batches of noise that lie on the card; at 32 px each is cropped and flipped there, as the resident feed does."""

    dropped = bad_images = 0
    bad_rows: frozenset[int] = frozenset()

    def __init__(self, size: int, classes: int, batch: int, steps: int, crops: bool, device: torch.device) -> None:
        self.steps_per_epoch, self.batch, self.size, self.crops = steps, batch, size, crops
        side = size + 8 if crops else size
        count = 8 * batch
        self.images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, device=device)
        self.labels = torch.randint(0, classes, (count,), device=device)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """`steps_per_epoch` batches."""
        device, lines = self.images.device, torch.arange(self.size, device=self.images.device)
        for number in range(start, self.steps_per_epoch):
            rows = (torch.arange(self.batch, device=device) + number * self.batch) % len(self.images)
            if self.crops:
                ys, xs = (torch.randint(0, 9, (self.batch, 1), device=device) + lines for _ in range(2))
                xs = torch.where(torch.rand(self.batch, 1, device=device) < 0.5, xs.flip(1), xs)
                images = self.images[rows[:, None, None], ys[:, :, None], xs[:, None, :]]
            else:
                images = self.images[rows]
            yield Batch(images=images.permute(0, 3, 1, 2), labels=self.labels[rows], index=rows, ids=rows, views=1)


def rate(work: Callable[[], object], images: int, device: torch.device, steps: int) -> float:
    """Images per second of `work`, after warm-up."""
    for _ in range(10):
        work()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(steps):
        work()
    synchronize(device)
    return steps * images / (time.perf_counter() - started)


def synchronize(device: torch.device) -> None:
    """Wait for the card."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def case(name: str, compiled: bool, device: torch.device, steps: int, shrink: int) -> dict[str, float]:
    """Measure teacher forward, student step and kdray's loop of one case."""
    teacher_name, student_name, size, classes, batch = CASES[name]
    batch //= shrink
    precision = Precision("bf16", device.type)

    def net(model: str) -> Any:
        built = build(ModelSpec(model=model), classes, size).to(device)
        return built.to(memory_format=torch.channels_last)

    x = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    x = PIXELS.prepare(x.contiguous(memory_format=torch.channels_last), precision)
    y = torch.randint(0, classes, (batch,), device=device)

    teacher = freeze(net(teacher_name), PIXELS, precision, size)
    if compiled:
        teacher.net.compile()
    forward = rate(lambda: teacher(x, stages=False, preact=False), batch, device, steps)

    student = net(student_name)
    if compiled:
        student.compile()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)

    def step() -> None:
        with precision.autocast():
            logits = student(x).logits
        F.cross_entropy(logits.float(), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    alone = rate(step, batch, device, steps)

    student, plain = net(student_name), freeze(net(teacher_name), PIXELS, precision, size)
    config = Train(
        epochs=3,
        batch=batch,
        optimizer=Optimizer(lr=0.01, weight_decay=1e-4),
        compile=compiled,
        checkpoint=Checkpointing(every_minutes=None),
    )
    setup = Setup(classes, 8 * batch, student.info, plain.net.info, np.arange(8 * batch) % classes, batch, 3, 0)
    listener = Quiet()
    Loop(
        Job(
            trainable=Trainable(student, ObjectiveSet({"ce": {}, "kd": {}}, setup).to(device)),
            teacher=plain,
            feed=CardFeed(size, classes, batch, steps, size == 32, device),
            train=config,
            pixels=PIXELS,
            precision=precision,
            device=device,
            seed=0,
            listener=listener,
        )
    ).run()
    loop = statistics.median(row["images_per_s"] for row in listener.epochs[1:])
    roofline = 1 / (1 / forward + 1 / alone)
    return {
        "teacher_forward": forward,
        "student_step": alone,
        "roofline": roofline,
        "loop": loop,
        "share_of_roofline": loop / roofline,
        "data_wait": listener.epochs[-1]["data_wait"],
    }


def main() -> None:
    """Measure all cases and write the record."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, default=100)
    cli.add_argument("--device", default="cuda")
    cli.add_argument("--shrink", type=int, default=1, help="divide the batches, to try the script on a small device")
    cli.add_argument("--cases", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    cli.add_argument("--no-compile", action="store_true")
    cli.add_argument("--out", type=Path)
    args = cli.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    found = {}
    for name in args.cases:
        for compiled in (False,) if args.no_compile else (False, True):
            key = f"{name} {'compiled' if compiled else 'eager'}"
            found[key] = case(name, compiled, device, args.steps, args.shrink)
            print(key, json.dumps(found[key]), flush=True)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    record = {
        "command": "benchmarks/gpu.py",
        "data": "noise on the card",
        "seed": 0,
        "device": card,
        "torch": torch.__version__,
        "settings": {"steps": args.steps, "shrink": args.shrink},
        "images_per_s": found,
    }
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
