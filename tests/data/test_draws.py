from __future__ import annotations

import math

import numpy as np
import pytest

from kdray.data.draws import keys, uniforms, unit_hash

IDS = np.arange(20_000, dtype=np.int64)
WORD = (1 << 64) - 1


def splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def test_equals_splitmix64_in_plain_integers() -> None:
    # The published first outputs of splitmix64 from state 0 pin the mixer itself.
    assert [splitmix64(i * 0x9E3779B97F4A7C15 & WORD) for i in range(2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    seed, epoch, view, tag = 7, 3, 1, 99
    stream = 4
    for word in (seed, epoch, view, tag):
        stream = splitmix64(stream ^ word)
    got = uniforms(seed, epoch, np.array([0, 5, -1, 2**62]), view, tag, 3)
    for row, number in enumerate([0, 5, -1, 2**62]):
        key = splitmix64((number & WORD) ^ stream)
        for column in range(3):
            bits = splitmix64((key + (column + 1) * 0x9E3779B97F4A7C15) & WORD)
            assert got[row, column] == (bits >> 11) / 2**53


def test_depend_on_nothing_but_their_arguments() -> None:
    whole = uniforms(0, 1, IDS, 0, 5, 4)
    some = np.random.default_rng(0).permutation(len(IDS))[:100]
    np.random.seed(3)
    assert np.array_equal(uniforms(0, 1, IDS[some], 0, 5, 4), whole[some])
    assert np.array_equal(uniforms(0, 1, IDS, 0, 5, 2), whole[:, :2])


def test_are_uniform() -> None:
    u = uniforms(0, 0, IDS, 0, 1, 5)
    assert u.min() >= 0 and u.max() < 1
    for column in u.T:
        counts = np.histogram(column, bins=100, range=(0, 1))[0]
        expected = len(IDS) / 100
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert abs(chi_square - 99) < 5 * math.sqrt(2 * 99)


@pytest.mark.parametrize(
    "other",
    [
        uniforms(1, 0, IDS, 0, 1, 2),
        uniforms(0, 1, IDS, 0, 1, 2),
        uniforms(0, 0, IDS, 1, 1, 2),
        uniforms(0, 0, IDS, 0, 2, 2),
        uniforms(0, 0, IDS + 1, 0, 1, 2),
        uniforms(0, 0, IDS << 32, 0, 1, 2),
        uniforms(0, 0, IDS, 0, 1, 2)[:, ::-1],
        uniforms(2**63, 0, IDS, 0, 1, 2),
    ],
    ids=["seed", "epoch", "view", "tag", "next id", "shifted id", "column", "large seed"],
)
def test_are_independent(other) -> None:
    mine = uniforms(0, 0, IDS, 0, 1, 2)[:, 0]
    other = other[:, 0]
    bound = 5 / math.sqrt(len(IDS))
    assert abs(np.corrcoef(mine, other)[0, 1]) < bound
    assert abs(np.corrcoef((mine * 256) % 1, (other * 256) % 1)[0, 1]) < bound
    pairs = np.histogram2d(mine, other, bins=10, range=[[0, 1], [0, 1]])[0]
    chi_square = float(((pairs - len(IDS) / 100) ** 2 / (len(IDS) / 100)).sum())
    assert abs(chi_square - 99) < 5 * math.sqrt(2 * 99)


def test_every_bit_of_an_id_flips_half_of_the_result() -> None:
    base = keys(0, 0, IDS[:500], 1)
    for bit in range(64):
        flipped = keys(0, 0, IDS[:500] ^ np.int64(-(2**63) if bit == 63 else 1 << bit), 1)
        share = np.unpackbits((base ^ flipped).view(np.uint8)).mean()
        assert abs(share - 0.5) < 0.02


def test_keys_are_distinct_and_sort_to_different_permutations() -> None:
    orders = [np.argsort(keys(seed, epoch, IDS, 1)) for seed in (0, 1) for epoch in (0, 1)]
    for i, order in enumerate(orders):
        assert len(np.unique(order)) == len(IDS)
        for other in orders[:i]:
            assert (order == other).mean() < 0.001


def test_unit_hash_is_uniform_and_its_own_stream() -> None:
    mine = unit_hash(0, IDS, 1)
    assert abs((mine < 0.1).mean() - 0.1) < 0.01
    assert abs(np.corrcoef(mine, uniforms(0, 1, IDS, 0, 0, 1)[:, 0])[0, 1]) < 5 / math.sqrt(len(IDS))
    assert not np.array_equal(mine, unit_hash(1, IDS, 1))
