"""Two workers with half the rows each against one worker with all of them; real processes over gloo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdray.models.outputs import Outputs
from kdray.objectives import ObjectiveSet, Setup, StepInfo, Targets, gather_rows, needs
from kdray.objectives.gather import own_rows, world
from kdray.objectives.sharded import ShardedBank
from tests.ranks import run_ranks

from .cases import EVERY, case_id, gathers, make_setup, network_outputs, views_of

ROWS, STEPS = 8, 3
ALONE = ("centroid_kl", "align")  # forms that compare no rows
LOCAL = [p for p in EVERY if gathers(p) and p.get("mode") != "memory" and p.get("form") not in ALONE]
CASES: dict[str, dict[str, Any]] = {case_id(p): p for p in EVERY} | {
    f"local {case_id(p)}": {**p, "gather": "local"} for p in LOCAL
}
TWO_VIEWS = {f"two views {case_id(p)}": p for p in EVERY if views_of(p) < 2 and (gathers(p) or needs({"one": p}).index)}
"""Rows of several views lie view by view on every worker, and so in another order when they are gathered."""
ALL: dict[str, tuple[dict[str, Any], int]] = {name: (p, views_of(p)) for name, p in CASES.items()} | {
    name: (p, 2) for name, p in TWO_VIEWS.items()
}


class Student(nn.Module):
    """The smallest network with everything that objectives read; the loss is inside: DDP sees all parameters."""

    def __init__(self, setup: Setup, objectives: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.info = setup.student
        self.backbone = nn.Linear(10, setup.student.pooled_dim)
        self.head = nn.Linear(setup.student.pooled_dim, setup.num_classes)
        self.objectives = ObjectiveSet(objectives, setup)

    def forward(self, x: Tensor, teacher: Outputs, teacher_head: nn.Linear, targets: Targets, step: StepInfo) -> Any:
        pooled = self.backbone(x).relu()
        student = network_outputs(self.info, pooled, self.head)
        return self.objectives(targets, student, teacher, self.head, teacher_head, step)


def train(setup: Setup, name: str, rank: int, workers: int, alone: bool = False) -> dict[str, Any]:
    """A few SGD steps of the case `name` in float64 on share `rank` of `workers`; gradients are averaged as DDP does,
    unless `alone`."""
    params, views = ALL[name]
    setup = replace(setup, views=views)
    student = Student(setup, {"one": params}).double()
    random = torch.Generator().manual_seed(0)
    teacher_head = nn.Linear(setup.teacher.pooled_dim, setup.num_classes).double()
    values, gradients = [], []
    for step in range(STEPS):
        index = torch.randperm(setup.num_samples, generator=random)[:ROWS]
        x = torch.randn(views, ROWS, 10, generator=random, dtype=torch.float64)
        t = torch.randn(views, ROWS, setup.teacher.pooled_dim, generator=random, dtype=torch.float64).abs()
        z = torch.randn(views, ROWS, setup.num_classes, generator=random, dtype=torch.float64)
        mine = slice(rank * ROWS // workers, (rank + 1) * ROWS // workers)
        x, t, z = (rows[:, mine].flatten(0, 1) for rows in (x, t, z))
        targets = Targets(torch.from_numpy(setup.labels)[index][mine], index[mine], views)
        with torch.no_grad():
            teacher_head.weight.copy_(
                torch.linspace(-1, 1, teacher_head.weight.numel()).reshape_as(teacher_head.weight)
            )
        teacher = replace(network_outputs(setup.teacher, t, teacher_head), logits=z)
        student.zero_grad()
        report = student(x, teacher, teacher_head, targets, StepInfo(0.5, 4, step, 11))
        report.total.backward()
        value = report.total.detach().clone()
        for parameter in student.parameters():
            assert parameter.grad is not None
            if workers > 1 and not alone:
                dist.all_reduce(parameter.grad)
                parameter.grad /= workers
        if workers > 1 and not alone:
            dist.all_reduce(value)
            value /= workers
        gradients.append({name: p.grad.clone() for name, p in student.named_parameters()})
        values.append(value)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter -= 0.01 * parameter.grad
    return {"values": values, "gradients": gradients, "state": state_of(student.objectives)}


def state_of(objectives: ObjectiveSet) -> dict[str, Tensor]:
    """All buffers, sharded banks put together."""
    state = dict(objectives.named_buffers())
    for name, module in objectives.named_modules():
        if isinstance(module, ShardedBank):
            state[f"{name}.vectors"] = gather_rows(module.vectors[: module.share])[: module.samples]
    return state


def gather_once(dtype: torch.dtype) -> dict[str, Tensor]:
    rank, workers = world()
    x = (torch.arange(6.0).reshape(3, 2) + 10 * rank).to(dtype).requires_grad_()
    y = gather_rows(x)
    (y * (rank + 1) * torch.arange(1.0, 7.0).to(dtype)[:, None]).sum().backward()
    labels = gather_rows(torch.tensor([rank, rank]))
    return {"rows": y.detach(), "grad": x.grad, "labels": labels, "own": torch.tensor([own_rows(3).start, workers])}


def ddp(setup: Setup) -> None:
    """DDP itself: no parameter is unused while a member rests, and banks are left alone by its broadcast of buffers."""
    rest = {"schedule": {"type": "warmup", "epochs": 1}}
    memory = {"mode": "memory", "dim": 7, "positives": 3, "negatives": 5}
    objectives = {
        "ce": {},
        "clmkd.class_guided": memory,
        "crd": {"dim": 7, "bank_samples": 5, "bank": "sharded"},
        "clmkd": {"gradient_relation": rest, "semantic_similarity": rest},
    }
    student = Student(setup, objectives)
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        student, [f"objectives.{name}" for name in student.objectives.state_names]
    )
    rank, _ = world()
    banks = student.objectives.members["clmkd/class_guided"]
    with torch.no_grad():
        banks.bank_student.vectors[0] += rank  # what a broadcast would undo
    wrapped, random = nn.parallel.DistributedDataParallel(student), torch.Generator().manual_seed(rank)
    teacher_head = nn.Linear(setup.teacher.pooled_dim, setup.num_classes)
    for step in range(3):
        index = torch.arange(4) * 2 + 1 + rank
        targets = Targets(torch.from_numpy(setup.labels)[index], index)
        teacher = Outputs(torch.randn(4, setup.num_classes), torch.rand(4, setup.teacher.pooled_dim))
        x = torch.randn(4, 10, generator=random)
        wrapped(x, teacher, teacher_head, targets, StepInfo(step / 2, 4, step, 0)).total.backward()
    shards = gather_rows(student.objectives.members["crd"].bank_student.vectors[:20][None])
    assert not (shards[0] == shards[1]).all(dim=1).any()  # nor is a worker's share sent to the others
    kept = gather_rows(banks.bank_student.vectors[:1])
    assert (kept[1] - kept[0] - 1).abs().max() < 1e-6
    gradients = gather_rows(student.head.weight.grad[None])
    assert torch.equal(gradients[0], gradients[1]) and gradients.any()


def worker(rank: int, folder: str, setup: Setup) -> None:
    results: dict[str, Any] = {name: train(setup, name, rank, 2) for name in ALL}
    for dtype in (torch.float32, torch.bfloat16):
        results[str(dtype)] = gather_once(dtype)
    ddp(setup)
    torch.save(results, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def setup() -> Setup:
    return make_setup(classes=3, labels=np.arange(40) % 3)


@pytest.fixture(scope="module")
def two(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("two")
    run_ranks(worker, str(folder), setup)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", [*(case_id(p) for p in EVERY), *TWO_VIEWS])
def test_two_workers_are_one_with_all_rows(name: str, setup: Setup, two: list[dict[str, Any]]) -> None:
    one = train(setup, name, 0, 1)
    torch.testing.assert_close(two[0][name]["values"], one["values"])
    torch.testing.assert_close(two[0][name]["gradients"], one["gradients"])
    torch.testing.assert_close(two[0][name]["state"], one["state"])


@pytest.mark.parametrize("name", [*(case_id(p) for p in EVERY), *TWO_VIEWS])
def test_state_is_bitwise_equal_on_both_workers(name: str, two: list[dict[str, Any]]) -> None:
    torch.testing.assert_close(two[0][name]["state"], two[1][name]["state"], rtol=0, atol=0)


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith("local ")])
def test_local_is_the_mean_of_the_halves(name: str, setup: Setup, two: list[dict[str, Any]]) -> None:
    """On the first step, before the weights have gone apart: each worker sees its own rows and no others."""
    halves = [train(setup, name, rank, 2, alone=True)["values"][0] for rank in range(2)]
    torch.testing.assert_close(two[0][name]["values"][0], torch.stack(halves).mean())
    whole = two[0][name.removeprefix("local ")]["values"][0]
    assert not torch.isclose(two[0][name]["values"][0], whole, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gather_rows(dtype: torch.dtype, two: list[dict[str, Any]]) -> None:
    rows = torch.cat([torch.arange(6.0).reshape(3, 2) + 10 * rank for rank in range(2)]).to(dtype)
    for rank, results in enumerate(two):
        got = results[str(dtype)]
        assert torch.equal(got["rows"], rows)
        # worker r's loss has weight (r + 1) * (position + 1): their sum over workers is 3 * (position + 1)
        expected = 3 * (torch.arange(1.0, 4.0) + 3 * rank)[:, None].expand(3, 2)
        assert torch.equal(got["grad"], expected.to(dtype))
        assert got["labels"].tolist() == [0, 0, 1, 1] and got["own"].tolist() == [3 * rank, 2]


def test_without_a_process_group_nothing_happens() -> None:
    x = torch.randn(3, 2)
    assert gather_rows(x) is x and world() == (0, 1) and own_rows(3) == slice(0, 3)
