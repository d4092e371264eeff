"""Random draws as a function of (seed, step, sample): equal on every device, for any order of rows, on any number of
workers.

A counter-based hash (the finaliser of splitmix64) in int64 tensors, whose products wrap like unsigned ones on all
devices.
"""

from __future__ import annotations

from enum import IntEnum, unique

import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


@unique
class Tag(IntEnum):
    """What a draw is for: two uses of one (seed, step, key) must not see the same numbers.

    A new use takes a new number; to change one is to change the results of all that draw with it.
    """

    POSITIVES = 1
    NEGATIVES = 2
    ANCHORS = 3
    UNIFORM = 4
    OTHERS = 5
    CACHE_ORDER = 6
    NEIGHBOURS = 7
    QUEUE_ORDER = 8


def _signed(x: int) -> int:
    x &= _WORD
    return x - (1 << 64) if x >> 63 else x


def _mix_int(x: int) -> int:
    x = (x + _GOLDEN) & _WORD
    x = ((x ^ (x >> 30)) * _FIRST) & _WORD
    x = ((x ^ (x >> 27)) * _SECOND) & _WORD
    return x ^ (x >> 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: int64 shifts drag the sign along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = x + _signed(_GOLDEN)
    x = (x ^ _shift(x, 30)) * _signed(_FIRST)
    x = (x ^ _shift(x, 27)) * _signed(_SECOND)
    return x ^ _shift(x, 31)


def draw(keys: Tensor, count: int, *, seed: int, step: int, tag: Tag | int) -> Tensor:
    """`count` random integers for every key: int64 [n] -> int64 [n, count], uniform over [0, 2^62).

    `tag` (`Tag`) tells apart the uses of one (seed, step, key).
    """
    stream = _mix_int(_mix_int(_mix_int(seed & _WORD) ^ (step & _WORD)) ^ tag)
    rows = _mix(keys ^ _signed(stream))
    # _signed(_GOLDEN) * j would be the counter of a plain splitmix64; one more odd constant keeps rows apart.
    columns = torch.arange(count, device=keys.device) * _signed(_GOLDEN * 3)
    return _shift(_mix(rows[:, None] + columns[None, :]), 2)


def row_keys(index: Tensor, views: int) -> Tensor:
    """One key per row of V views from sample indices: int64 [B] -> int64 [V*B], row = v*B + i."""
    if views == 1:
        return index
    view = torch.arange(views, device=index.device)
    return (view[:, None] * (1 << 48) + index[None, :]).reshape(-1)


def distinct(keys: Tensor, sizes: Tensor, count: int, *, seed: int, step: int, tag: Tag | int) -> tuple[Tensor, Tensor]:
    """Draw without replacement: for every row, min(count, size) distinct positions in [0, size).

    Args:
        keys: int64 [n].
        sizes: int64 [n], how many positions each row may draw from.

    Returns:
        positions int64 [n, count] and which of them count, bool [n, count]; every subset is equally likely.

    R. W. Floyd's sampling: one pass per draw, whatever the sizes, so neither a permutation nor a sort per class is
    needed.
    """
    taken = torch.minimum(sizes, torch.full_like(sizes, count))
    random = draw(keys, count, seed=seed, step=step, tag=tag)
    positions = torch.full((len(keys), count), -1, dtype=torch.int64, device=keys.device)
    for k in range(count):
        last = sizes - taken + k
        candidate = random[:, k] % (last + 1).clamp_min(1)
        seen = (positions[:, :k] == candidate[:, None]).any(dim=1)
        positions[:, k] = torch.where(seen, last, candidate)
    valid = torch.arange(count, device=keys.device)[None, :] < taken[:, None]
    return torch.where(valid, positions, 0), valid
