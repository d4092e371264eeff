from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdray.objectives import ObjectiveSet, bank_bytes, parse
from kdray.objectives.crd import CRD

from .cases import STEP, build, make_case, make_setup

PARAMS: dict[str, Any] = {"type": "crd", "dim": 7, "bank_samples": 6}


def member(objectives: ObjectiveSet) -> CRD:
    (one,) = objectives.members.values()
    assert isinstance(one, CRD)
    return one


def embed(head: torch.nn.Linear, pooled: Tensor) -> Tensor:
    z = pooled @ head.weight.to(pooled.dtype).T + head.bias.to(pooled.dtype)
    return z / z.norm(dim=1, keepdim=True)


def loops(
    a: Tensor, bank: Tensor, z: float, index: list[int], negatives: list[list[int]], k: int, n: int, tau: float
) -> Tensor:
    total, noise, eps = a.new_zeros(()), k / n, 1e-7
    for i, sample in enumerate(index):
        q = (a[i] @ bank[sample] / tau).exp() / z
        total = total - (q / (q + noise + eps)).log()
        for m in negatives[i]:
            q = (a[i] @ bank[m] / tau).exp() / z
            total = total - (noise / (q + noise + eps)).log()
    return total / len(a)


@pytest.mark.parametrize("rows,views,count", [(1, 1, 1), (6, 1, 5), (3, 2, 40)])
@pytest.mark.parametrize("negatives", ["different_class", "all"])
@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_equals_loops(rows: int, views: int, count: int, negatives: str, tau: float) -> None:
    """In value and gradient, on the batch that fixes Z and on the next one, with the banks that the first left."""
    setup = make_setup(classes=3, samples=30, views=views)
    objectives = build({**PARAMS, "bank_samples": count, "negatives": negatives, "temperature": tau}, setup)
    one, z = member(objectives), None
    for seed in (0, 1):
        case = make_case(setup, rows, seed=seed)
        index = case.targets.row_index.tolist()
        u, v = embed(one.embed_student, case.student_pooled), embed(one.embed_teacher, case.teacher_pooled.detach())
        banks = [bank.vectors.clone() for bank in (one.bank_teacher, one.bank_student)]
        drawn, exist = one._negatives(case.targets, STEP)
        assert exist.all()
        if z is None:
            used = [[i, *row] for i, row in zip(index, drawn.tolist(), strict=True)]
            z = [
                30 * np.mean([math.exp(a[i].detach() @ bank[j] / tau) for i, js in enumerate(used) for j in js])
                for a, bank in zip((u, v), banks, strict=True)
            ]
        ours = case.part(objectives)
        theirs = loops(u, banks[0], z[0], index, drawn.tolist(), count, 30, tau)
        theirs = theirs + loops(v, banks[1], z[1], index, drawn.tolist(), count, 30, tau)
        torch.testing.assert_close(ours, theirs)
        leaves = [case.student_pooled, *objectives.parameters()]
        torch.testing.assert_close(
            *(torch.autograd.grad(x, leaves, retain_graph=True) for x in (ours, theirs)),
        )


@pytest.mark.parametrize("negatives", ["different_class", "all"])
def test_negatives_are_what_they_are_called(negatives: str) -> None:
    labels = np.array([0, 0, 1, 1, 2, -1, 0])
    setup = make_setup(classes=3, labels=labels)
    one = member(build({**PARAMS, "bank_samples": 200, "negatives": negatives}, setup))
    targets = make_case(setup, index=[0, 2, 4, 6]).targets
    drawn, _ = one._negatives(targets, STEP)
    for i, row in zip(targets.index.tolist(), drawn.tolist(), strict=True):
        trained = {j for j in range(7) if labels[j] >= 0}
        expected = {j for j in trained if j != i and (negatives == "all" or labels[j] != labels[i])}
        assert set(row) == expected


@pytest.mark.parametrize("count,expected", [(16384, 21.4), (4096, 18.6)])
@pytest.mark.parametrize("temperature", [10.0, 0.07])
def test_value_at_the_start(count: int, expected: float, temperature: float) -> None:
    """2 (ln(1 + K) + 1) where all scores are alike, at CIFAR-100's size; random directions add 1 / (d tau^2)."""
    labels = np.random.default_rng(0).integers(0, 100, 50_000)
    setup = make_setup(classes=100, d_s=64, d_t=64, labels=labels)
    case = make_case(setup, 64, dtype=torch.float32)
    with torch.no_grad():  # zero-mean features: after a ReLU all embeddings would lean to one side
        case.student.pooled, case.teacher.pooled = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    params = {"type": "crd", "bank_samples": count, "temperature": temperature}
    value = case.part(build(params, setup, torch.float32)).item()
    # The 64 positive scores of a direction have deviation 1 / (sqrt(d) tau): three of their means', and rounding.
    spread = 3 * math.sqrt(2 / 64 / 128) / temperature
    leaning = 1 / (128 * temperature**2)
    assert value == pytest.approx(expected + leaning, abs=0.05 + spread)
    assert value == pytest.approx(2 * (math.log(1 + count) + 1) + leaning, abs=0.02 + spread)


def test_banks_do_not_leak_from_run_to_run() -> None:
    """A second run in the same process starts as the first did, whatever the first has learned since."""
    setup = make_setup()
    first = build(PARAMS, setup)
    start = {name: value.clone() for name, value in first.state_dict().items()}
    for seed in range(3):
        make_case(setup, 8, seed=seed).run(first)
    second = build(PARAMS, setup)
    assert not torch.equal(member(first).bank_student.vectors, start["members.one.bank_student.vectors"])
    torch.testing.assert_close(second.state_dict(), start, rtol=0, atol=0, equal_nan=True)
    shared = {b.data_ptr() for b in first.buffers()} & {b.data_ptr() for b in second.buffers()}
    assert not shared
    before = {name: value.clone() for name, value in second.state_dict().items()}
    make_case(setup, 8, seed=9).run(first)
    torch.testing.assert_close(second.state_dict(), before, rtol=0, atol=0, equal_nan=True)


def test_state_is_two_banks_and_z() -> None:
    setup = make_setup()
    one = member(build(PARAMS, setup))
    heads = {f"embed_{network}.{kind}" for network in ("student", "teacher") for kind in ("weight", "bias")}
    assert set(one.state_dict()) == heads | {"bank_student.vectors", "bank_teacher.vectors", "log_z"}
    assert bank_bytes({"one": PARAMS}, setup) == {"one": 2 * 60 * 7 * 4 + 60 * 16}


def test_defaults_are_those_of_the_released_code() -> None:
    (entry,) = parse({"crd": {}})
    options = entry.options
    assert isinstance(options, CRD.config)
    assert (options.weight, options.bank_samples, options.temperature, options.dim, options.momentum) == (
        0.8,
        16384,
        0.07,
        128,
        0.5,
    )
