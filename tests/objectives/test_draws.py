from __future__ import annotations

import ast
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray import objectives
from kdray.objectives.draws import Tag, distinct, draw, row_keys

M64 = (1 << 64) - 1


def mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & M64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M64
    return x ^ (x >> 31)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**63 - 1), st.integers(0, 10**9), st.integers(-(2**63), 2**63 - 1), st.integers(0, 9))
def test_equals_python_integers(seed: int, step: int, key: int, tag: int) -> None:
    stream = mix(mix(mix(seed) ^ step) ^ tag)
    row = mix((key & M64) ^ stream)
    expected = [mix((row + 3 * 0x9E3779B97F4A7C15 * j) & M64) >> 2 for j in range(5)]
    assert draw(torch.tensor([key]), 5, seed=seed, step=step, tag=tag)[0].tolist() == expected


def test_splitmix_reference_values() -> None:
    """The first outputs of splitmix64 seeded with 1234567, as published with the generator."""
    assert [mix((1234567 + i * 0x9E3779B97F4A7C15) & M64) for i in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_order_of_keys_does_not_matter() -> None:
    keys, order = torch.arange(50), torch.randperm(50)
    whole = draw(keys, 4, seed=1, step=2, tag=3)
    assert torch.equal(draw(keys[order], 4, seed=1, step=2, tag=3), whole[order])


def test_draws_are_uniform_and_apart() -> None:
    numbers = draw(torch.arange(2000), 50, seed=0, step=0, tag=1)
    assert numbers.min() >= 0 and numbers.unique().numel() == numbers.numel()
    counts = torch.bincount((numbers % 10).flatten(), minlength=10).double()
    assert ((counts / 10_000 - 1).abs() < 0.05).all()
    high = (numbers.double() / 2**62).mean().item()
    assert abs(high - 0.5) < 0.005
    for other in (
        draw(torch.arange(2000), 50, seed=1, step=0, tag=1),
        draw(torch.arange(2000), 50, seed=0, step=1, tag=1),
        draw(torch.arange(2000), 50, seed=0, step=0, tag=2),
    ):
        assert not (numbers == other).any()
        assert abs(np.corrcoef(numbers.flatten().double(), other.flatten().double())[0, 1]) < 0.02


def test_views_have_keys_of_their_own() -> None:
    index = torch.tensor([3, 5])
    assert torch.equal(row_keys(index, 1), index)
    keys = row_keys(index, 3)
    assert torch.equal(keys[:2], index) and keys.unique().numel() == 6


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 12), st.integers(0, 100))
def test_distinct_positions_within_the_size(sizes: list[int], count: int, step: int) -> None:
    keys = torch.arange(len(sizes))
    positions, valid = distinct(keys, torch.tensor(sizes), count, seed=0, step=step, tag=1)
    for size, row, mask in zip(sizes, positions, valid, strict=True):
        chosen = row[mask].tolist()
        assert len(chosen) == min(count, size) == len(set(chosen))
        assert all(0 <= x < size for x in chosen)


def test_every_subset_is_equally_likely() -> None:
    keys = torch.arange(30_000)
    positions, _ = distinct(keys, torch.full((30_000,), 5), 2, seed=3, step=0, tag=1)
    subsets = positions.sort(dim=1).values
    for a, b in itertools.combinations(range(5), 2):
        share = ((subsets[:, 0] == a) & (subsets[:, 1] == b)).double().mean().item()
        assert abs(share - 0.1) < 0.01


def test_tags_of_draws_stand_in_one_place_and_are_distinct() -> None:
    """Every use of its own, none by a bare number; and none renumbered, which would change results."""
    used: list[str] = []
    for path in sorted(Path(objectives.__path__[0]).rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                used += [ast.unparse(word.value) for word in call.keywords if word.arg == "tag"]
    used.remove("tag")  # `distinct` hands its own on
    assert Counter(used) == Counter(f"Tag.{name}" for name in Tag.__members__)
    values = {"POSITIVES": 1, "NEGATIVES": 2, "ANCHORS": 3, "UNIFORM": 4, "OTHERS": 5, "CACHE_ORDER": 6}
    assert {name: int(tag) for name, tag in Tag.__members__.items() if name in values} == values
    assert len({int(tag) for tag in Tag.__members__.values()}) == len(Tag.__members__)
