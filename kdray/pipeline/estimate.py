"""What a stage will cost, known before it starts: steps, samples, parameters, FLOPs, memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import nn

from kdray.data.dataset import Dataset, Split
from kdray.data.feed import will_stream
from kdray.data.footprint import decoded_bytes
from kdray.experiment import ModelSpec
from kdray.models.meta import on_meta, runs_unfilled, unfilled
from kdray.models.outputs import ModelInfo
from kdray.models.registry import find
from kdray.models.zoo import build, describe
from kdray.objectives.contract import Setup
from kdray.objectives.registry import bank_bytes
from kdray.pipeline.naming import named_model
from kdray.train.spec import NetSpec, StageSpec

MIB = 1024**2


@dataclass(frozen=True)
class Estimate:
    """Sizes of one stage. Memory is per worker, in bytes; what the allocator and the libraries add is not in it."""

    student: ModelInfo
    teacher: ModelInfo | None
    steps_per_epoch: int
    steps: int
    samples: int
    dropped: int
    flops_per_image: int | None
    memory: dict[str, int] = field(default_factory=dict)
    banks: dict[str, int] = field(default_factory=dict)
    saved_banks: int = 0  # a checkpoint holds them whole, however many workers share them

    @property
    def memory_bytes(self) -> int:
        """Sum of the parts."""
        return sum(self.memory.values()) + sum(self.banks.values())

    @property
    def state_bytes(self) -> int:
        """What certainly stays in memory: everything but activations, which depend on the libraries."""
        return self.memory_bytes - self.memory.get("activations", 0)

    @property
    def checkpoint_bytes(self) -> int:
        """About what one whole-state checkpoint takes on the store."""
        return self.memory.get("weights", 0) + self.memory.get("optimizer", 0) + self.saved_banks


def estimate(stage: StageSpec, world: int) -> Estimate:
    """Estimate `stage` on `world` workers from the meta device alone.

    Raises:
        ModelError: a model, a layer or a parameter that does not exist.
    """
    dataset, train = stage.dataset, stage.train
    student = _describe(stage.net, dataset, train is not None)
    teacher = _describe(stage.teacher, dataset, True) if stage.teacher else None
    images = len(dataset.train) if dataset.train is not None else 0
    if train is None:
        test = len(dataset.test) if dataset.test else 0
        memory = {"weights": 4 * student.parameters}
        return Estimate(student, None, 0, 0, test, 0, student.flops, memory)
    steps = images // train.batch
    setup = Setup(
        num_classes=dataset.num_classes,
        num_samples=dataset.train.manifest.num_samples if dataset.train is not None else 0,
        student=student,
        teacher=teacher,
        labels=dataset.labels,
        batch=train.batch,
        epochs=train.epochs,
        seed=stage.seed,
        views=stage.data.views,
        workers=max(1, world),
    )
    rows = -(-train.batch // (max(1, world) * train.accumulate)) * stage.data.views
    element = 4 if train.precision == "fp32" else 2
    states = 1 if train.optimizer.type == "sgd" else 2
    memory = {
        "weights": student.parameters * 4 * (2 + (train.ema is not None)),  # with gradients, and the average
        "optimizer": student.parameters * 4 * states,
        "activations": rows * activation_count(stage.net.spec, dataset.num_classes, dataset.image_size) * element,
    }
    if teacher is not None:
        memory["teacher"] = teacher.parameters * 4
    memory["resident images"] = sum(_resident_bytes(stage, split) for split in (dataset.train, dataset.validation))
    # A training step is a forward and a backward of twice its cost; the teacher's forward comes once.
    flops = None
    if student.flops is not None:
        flops = stage.data.views * (3 * student.flops + (teacher.flops or 0 if teacher else 0))
    return Estimate(
        student=student,
        teacher=teacher,
        steps_per_epoch=steps,
        steps=steps * train.epochs,
        samples=steps * train.batch * train.epochs,
        dropped=images - steps * train.batch,
        flops_per_image=flops,
        memory=memory,
        banks=bank_bytes(stage.objectives, setup),
        saved_banks=sum(bank_bytes(stage.objectives, replace(setup, workers=1)).values()),
    )


def _resident_bytes(stage: StageSpec, split: Split | None) -> int:
    """Decoded bytes of a split that stays in memory; every worker holds all images that it may be asked for."""
    if split is None or will_stream(stage.data, split.manifest, len(split)):
        return 0
    return int(decoded_bytes(split.manifest) * len(split) / max(1, split.manifest.num_samples))


def _describe(net: NetSpec, dataset: Dataset, trains: bool) -> ModelInfo:
    """What `net` is on images of the evaluation's size; in training it must take the size of the crops too."""
    with named_model(net.init):
        if trains and dataset.train_size not in (None, dataset.image_size):
            _described(_Asked(net.spec.model_dump_json(), net.spec), dataset.num_classes, dataset.train_size)
        return _described(_Asked(net.spec.model_dump_json(), net.spec), dataset.num_classes, dataset.image_size)


@dataclass(frozen=True)
class _Asked:
    """A spec by which an answer is remembered: a plan asks several times for the same network."""

    text: str
    spec: ModelSpec = field(compare=False)


@lru_cache(maxsize=64)
def _described(asked: _Asked, num_classes: int, image_size: int) -> ModelInfo:
    return describe(asked.spec, num_classes, image_size)


def activation_count(spec: ModelSpec, num_classes: int, image_size: int) -> int:
    """Elements that one image leaves for the backward pass: the outputs of all leaf modules."""
    return _activation_count(_Asked(spec.model_dump_json(), spec), num_classes, image_size)


@lru_cache(maxsize=64)
def _activation_count(asked: _Asked, num_classes: int, image_size: int) -> int:
    with on_meta() as device:
        net = build(asked.spec, num_classes, image_size)
    # Somebody's own network must not run here with values: what it does then is for its training.
    if find(asked.spec.model) and runs_unfilled(net, image_size):
        with unfilled() as device:
            net = build(asked.spec, num_classes, image_size)
    images = torch.zeros(2, 3, image_size, image_size, device=device)
    total = 0

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal total
        if isinstance(output, torch.Tensor):
            total += output.numel()

    handles = [m.register_forward_hook(count) for m in net.modules() if not list(m.children())]
    try:
        net(images)
    finally:
        for handle in handles:
            handle.remove()
    return total // 2


def readable_bytes(count: float) -> str:
    """`count` bytes in MiB or GiB."""
    return f"{count / MIB / 1024:.1f} GiB" if count >= 1024 * MIB else f"{count / MIB:.0f} MiB"


def readable_count(count: float | None) -> str:
    """A count with a K, M or G."""
    if count is None:
        return "-"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"
