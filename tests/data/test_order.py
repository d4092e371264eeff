from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.data.manifest import Manifest, ShardColumns, ShardInfo
from kdray.data.order import epoch_order, split_rows
from kdray.errors import DataError


def manifest(*shards: tuple[int, ...], row_bytes: int = 100) -> Manifest:
    """Shards of these row groups, without files."""
    infos = tuple(ShardInfo(f"{i}.parquet", sum(g), sum(g) * row_bytes, g) for i, g in enumerate(shards))
    total = sum(info.bytes for info in infos)
    return Manifest("mem:", "mem:", infos, ShardColumns(), 10, None, None, None, total, "f")


SORTED = manifest(*[(50,) * 20] * 10)  # 10,000 rows; as class-sorted as it gets: a shard is a class
ALL = np.arange(SORTED.num_samples)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=6), min_size=1, max_size=5),
    st.integers(1, 6000),
    st.integers(0, 3),
    st.integers(0, 3),
    st.data(),
)
def test_an_epoch_is_a_permutation_of_the_rows_in_windows_of_row_groups(
    groups, window_bytes, seed, epoch, data
) -> None:
    shards = manifest(*map(tuple, groups))
    keep = data.draw(st.sets(st.integers(0, shards.num_samples - 1), min_size=1))
    rows = np.array(sorted(keep))
    order = epoch_order(shards, rows, seed, epoch, window_bytes)
    assert np.array_equal(np.sort(order.index), rows)
    assert (np.diff(order.window) >= 0).all() and (np.diff(order.window) <= 1).all()
    group_of_row = shards.group_of(order.index)
    # A row group has one position and lies in one window; windows hold what fits, or one row group.
    assert len({*zip(group_of_row.tolist(), order.group.tolist(), order.window.tolist(), strict=True)}) == len(
        np.unique(group_of_row)
    )
    last = [-1]
    for window in np.unique(order.window):
        inside = order.window == window
        assert len(np.unique(order.group[inside])) == 1 or inside.sum() * 100 <= window_bytes
        assert order.group[inside].min() == last[-1] + 1
        last.append(int(order.group[inside].max()))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    first = epoch_order(SORTED, ALL, 0, 0, 10**5).index
    assert np.array_equal(first, epoch_order(SORTED, ALL, 0, 0, 10**5).index)
    for seed, epoch in ((0, 1), (1, 0), (1, 1)):
        assert (epoch_order(SORTED, ALL, seed, epoch, 10**5).index == first).mean() < 0.01


@pytest.mark.parametrize("world", [2, 3, 6])
@pytest.mark.parametrize("window_bytes", [10**4, 10**9])
def test_the_union_over_ranks_is_the_batch_of_one_rank(world, window_bytes) -> None:
    order = epoch_order(SORTED, ALL[:-7], 3, 2, window_bytes)
    steps = len(order.index) // 24
    for number in range(steps):
        alone = order.local(number, 24, 0, 1)
        shared = [order.local(number, 24, rank, world) for rank in range(world)]
        assert all(len(part) == 24 // world for part in shared)
        assert np.array_equal(np.concatenate(shared), alone)
        assert set(alone.tolist()) == set(order.index[number * 24 : number * 24 + 24].tolist())
    for start in (0, 5, steps):
        for rank in range(world):
            index, window = order.locals(start, 24, rank, world)
            assert index.shape == window.shape == (steps - start, 24 // world)
            assert all(np.array_equal(row, order.local(start + i, 24, rank, world)) for i, row in enumerate(index))
            assert (np.diff(window.ravel()) >= 0).all()


def test_ranks_read_few_row_groups_that_others_read_too() -> None:
    order = epoch_order(SORTED, ALL, 0, 0, 5 * 10**5)  # 2 windows of 100 row groups
    shares = []
    for rank in range(4):
        index, window = order.locals(0, 200, rank, 4)
        for number in np.unique(window):
            shares.append(len(np.unique(SORTED.group_of(index[window == number]))))
    assert max(shares) <= 50  # 25 would be a perfect split, 100 none at all


def classes_per_batch(index: np.ndarray, batch: int = 50) -> float:
    labels = index[: len(index) // batch * batch].reshape(-1, batch) // 1000
    return float(np.mean([len(np.unique(row)) for row in labels]))


def test_class_sorted_shards_are_mixed() -> None:
    shuffled = classes_per_batch(np.random.default_rng(0).permutation(ALL))
    whole = epoch_order(SORTED, ALL, 0, 0, 10**9)
    assert abs(classes_per_batch(whole.index) - shuffled) < 0.05
    # A window of a fifth of the data: 40 row groups, of which a batch of 50 draws.
    assert classes_per_batch(epoch_order(SORTED, ALL, 0, 0, 2 * 10**5).index) > shuffled - 0.5
    # Neighbours in the file are no neighbours in the order.
    assert (np.abs(np.diff(whole.index)) <= 1).mean() < 0.01


def test_no_rows_is_an_error() -> None:
    with pytest.raises(DataError, match=r"data\.validation"):
        epoch_order(SORTED, ALL[:0], 0, 0, 10**5)


def test_the_split_follows_the_ids_alone() -> None:
    ids = np.random.default_rng(0).integers(0, 2**62, 20_000)
    train, validation = split_rows(ids, 0.1)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(ids)))
    assert abs(len(validation) / len(ids) - 0.1) < 0.01
    held_out = set(ids[validation].tolist())
    some = np.random.default_rng(1).permutation(len(ids))[:5000]
    _, again = split_rows(ids[some], 0.1)
    assert set(ids[some][again].tolist()) == held_out & set(ids[some].tolist())
    _, more = split_rows(ids, 0.2)
    assert set(validation) < set(more)
    assert len(split_rows(ids, 0.0)[1]) == 0
