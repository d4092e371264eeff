"""Random numbers of samples as a function of (seed, epoch, sample id, view, tag): a counter-based hash, no state.

The mixer is the finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA
2014): a bijection of 64-bit words in which every input bit flips every output bit with probability near one half.
"""

from __future__ import annotations

import numpy as np

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def uniforms(seed: int, epoch: int, ids: np.ndarray, view: int, tag: int, k: int) -> np.ndarray:
    """Return float64 [n, k] in [0, 1): `k` numbers for each of `ids` int64 [n]. `tag` tells apart what they are for."""
    rows = _rows(ids, (seed, epoch, view, tag))
    columns = np.arange(1, k + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _unit(_mix(rows[:, None] + columns[None, :]))


def keys(seed: int, epoch: int, numbers: np.ndarray, tag: int) -> np.ndarray:
    """Return uint64 [n], one per int64 of `numbers` [n]: sorting by them is a random permutation."""
    return _mix(_rows(numbers, (seed, epoch, tag)))


def unit_hash(seed: int, ids: np.ndarray, tag: int) -> np.ndarray:
    """Return float64 [n] in [0, 1), one for each of `ids` int64 [n], for choices that hold over all epochs."""
    return _unit(_mix(_rows(ids, (seed, tag))))


def _rows(ids: np.ndarray, words: tuple[int, ...]) -> np.ndarray:
    stream = len(words)  # so that (seed, tag) and (seed, tag, 0) are different streams
    for word in words:
        stream = _mix_int(stream ^ (word & _WORD))
    return _mix(np.asarray(ids, dtype=np.int64).view(np.uint64) ^ np.uint64(stream))


def _mix_int(x: int) -> int:
    x = (x + _GOLDEN) & _WORD
    x = ((x ^ (x >> 30)) * _FIRST) & _WORD
    x = ((x ^ (x >> 27)) * _SECOND) & _WORD
    return x ^ (x >> 31)


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(_GOLDEN)  # unsigned arrays wrap without a warning
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_SECOND)
    return x ^ (x >> np.uint64(31))


def _unit(bits: np.ndarray) -> np.ndarray:
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
