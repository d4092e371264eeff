"""What a plan says that a stage takes, held against the networks and objectives themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from kdray.experiment import load_experiment
from kdray.models.zoo import build
from kdray.objectives import ObjectiveSet, Setup
from kdray.objectives.sharded import SPARE
from kdray.pipeline.estimate import Estimate, activation_count, estimate, readable_bytes, readable_count
from kdray.pipeline.plan import make_plan
from kdray.train.spec import StageSpec
from tests.tiny import Lab


def stage_of(lab: Lab, changes: dict[str, Any] | None = None) -> tuple[StageSpec, Estimate]:
    """The student's stage and its estimate."""
    stage, sizes = make_plan(load_experiment(lab.write(changes)), dry=True).stages[-1]
    return stage.spec, sizes


def test_activations_are_what_the_layers_give(lab: Lab) -> None:
    spec, _ = stage_of(lab)
    net = build(spec.net.spec, 10, 32)
    seen: list[int] = []
    for module in net.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _m, _i, output: seen.append(output.numel()))
    net(torch.zeros(3, 3, 32, 32))
    assert activation_count(spec.net.spec, 10, 32) * 3 == sum(seen)


@pytest.mark.parametrize(
    "changes, copies",
    [
        ({}, 1),
        ({"train": {"optimizer": {"type": "adamw", "lr": 0.001}}}, 2),
    ],
)
def test_memory_has_its_parts(lab: Lab, changes: dict[str, Any], copies: int) -> None:
    spec, sizes = stage_of(lab, changes)
    parameters = sizes.student.parameters
    assert sizes.teacher is not None
    assert sizes.memory["weights"] == 2 * 4 * parameters  # with gradients
    assert sizes.memory["optimizer"] == copies * 4 * parameters
    assert sizes.memory["teacher"] == 4 * sizes.teacher.parameters
    assert sizes.memory["activations"] == 32 * activation_count(spec.net.spec, 10, 32) * 4
    assert sizes.memory_bytes == sum(sizes.memory.values()) and sizes.banks == {}
    assert sizes.state_bytes == sizes.memory_bytes - sizes.memory["activations"]


def test_the_batch_is_shared_by_workers_and_parts(lab: Lab) -> None:
    spec, alone = stage_of(lab)
    assert estimate(spec, 2).memory["activations"] * 2 == alone.memory["activations"]
    _, parts = stage_of(lab, {"train": {"accumulate": 4}})
    assert parts.memory["activations"] * 4 == alone.memory["activations"]
    _, views = stage_of(lab, {"data": {"views": 2}})
    assert views.memory["activations"] == 2 * alone.memory["activations"]
    averaged, _ = stage_of(lab, {"train": {"ema": 0.9}})
    assert estimate(averaged, 1).memory["weights"] == 3 * 4 * alone.student.parameters


def test_banks_are_as_large_as_said(lab: Lab) -> None:
    spec, sizes = stage_of(lab, {"objectives": {"clmkd": {}}})
    assert spec.dataset.train is not None and spec.train is not None
    setup = Setup(
        num_classes=10,
        num_samples=spec.dataset.train.manifest.num_samples,
        student=sizes.student,
        teacher=sizes.teacher,
        labels=spec.dataset.labels,
        batch=spec.train.batch,
        epochs=1,
        seed=0,
    )
    state = {name: buffer for name, buffer in ObjectiveSet(spec.objectives, setup).named_buffers()}
    held = sum(buffer.numel() * buffer.element_size() for buffer in state.values())
    assert sum(sizes.banks.values()) == pytest.approx(held, rel=0.05)


def test_sharded_banks_are_counted_by_the_share_of_a_worker_and_saved_whole(lab: Lab) -> None:
    def memory(kind: str) -> tuple[int, int, int]:
        spec, alone = stage_of(lab, {"objectives": {"crd": {"bank": kind}}})
        two = estimate(spec, 2)
        assert two.checkpoint_bytes == alone.checkpoint_bytes
        return (
            alone.banks["crd"],
            two.banks["crd"],
            spec.dataset.train.manifest.num_samples if spec.dataset.train else 0,
        )

    whole, both, samples = memory("replicated")
    assert whole == both
    alone, share, _ = memory("sharded")
    row = 2 * 128 * 4  # of two banks
    assert alone == whole and share == whole - samples * row + (-(-samples // 2) + SPARE) * row


def test_steps_leave_out_the_partial_batch(lab: Lab) -> None:
    _, sizes = stage_of(lab, {"data": {"limit": 77}, "train": {"epochs": 3}})
    assert (sizes.steps_per_epoch, sizes.dropped, sizes.steps, sizes.samples) == (2, 13, 6, 192)


def test_an_evaluation_takes_no_steps(lab: Lab) -> None:
    spec, _ = stage_of(lab)
    sizes = estimate(replace(spec, train=None, teacher=None), 1)
    assert (sizes.steps, sizes.samples, sizes.flops_per_image) == (0, 64, sizes.student.flops)
    assert sizes.memory == {"weights": 4 * sizes.student.parameters}


@pytest.mark.parametrize(
    "count, said",
    [(None, "-"), (0, "0"), (999, "999"), (1500, "1.5K"), (2.5e6, "2.5M"), (4.1e9, "4.1G"), (3e13, "30T")],
)
def test_counts_are_readable(count: float | None, said: str) -> None:
    assert readable_count(count) == said


@pytest.mark.parametrize("count, said", [(0, "0 MiB"), (5 * 2**20, "5 MiB"), (3 * 2**30, "3.0 GiB")])
def test_bytes_are_readable(count: float, said: str) -> None:
    assert readable_bytes(count) == said
