"""The plan of a packing: a function of the listing and the options, every item once, shards of one size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdray.data.pack.collection import BadItem, Collection, items_table
from kdray.data.pack.options import PackOptions, identity
from kdray.data.pack.plan import make_plan
from kdray.errors import ConfigError


class Listed(Collection):
    """A listing without anything behind it."""

    def read(self, items: pa.Table) -> Iterator[bytes | BadItem]:
        raise AssertionError("a plan reads no image")


def listed(sizes: list[int], labels: list[int] | None = None, prefix: str = "image") -> Listed:
    paths = [f"{prefix}-{number:05d}" for number in range(len(sizes))]
    items = items_table(paths, labels or [0] * len(sizes), sizes)
    return Listed(items, kind="imagefolder", uri="/nowhere", class_names=None)


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(0, 1000), min_size=1, max_size=200),
    shard_bytes=st.integers(1, 20_000),
    order=st.sampled_from(["mixed", "source"]),
    ratio=st.sampled_from([1.0, 0.25, 3.0]),
)
def test_every_item_is_in_one_shard(sizes: list[int], shard_bytes: int, order: str, ratio: float) -> None:
    collection = listed(sizes)
    options = PackOptions(shard_bytes=shard_bytes, order=order)  # type: ignore[arg-type]
    plan = make_plan(collection, options, ratio)
    numbers = [plan.numbers(shard) for shard in range(plan.shards)]
    assert sorted(np.concatenate(numbers).tolist()) == list(range(len(sizes)))
    assert all(len(part) for part in numbers)
    again = make_plan(listed(sizes), options, ratio)
    assert np.array_equal(plan.order, again.order) and np.array_equal(plan.bounds, again.bounds)
    largest = max(plan.source_bytes(shard) for shard in range(plan.shards)) * ratio
    assert largest <= shard_bytes + 2 * max(1, *sizes) * ratio
    if order == "source":
        assert plan.order.tolist() == list(range(len(sizes)))


def test_blocks_are_read_by_few_shards_and_mixed_in_them() -> None:
    blocks = np.repeat(np.arange(40), 50)
    items = items_table([f"{row}" for row in range(2000)], blocks, [1000] * 2000, block=pa.array(blocks, pa.int32()))
    collection = Listed(items, kind="parquet", uri="/nowhere")
    plan = make_plan(collection, PackOptions(shard_bytes=200_000))
    assert plan.shards == 10
    assert sorted(plan.order.tolist()) == list(range(2000))
    held = [blocks[plan.numbers(shard)] for shard in range(10)]
    assert max(len(np.unique(part)) for part in held) <= 6  # four blocks, and a cut one at either end
    assert min(np.count_nonzero(np.diff(part)) for part in held) > 100  # not block after block
    assert any(np.diff(np.unique(part)).max() > 1 for part in held)  # not neighbouring blocks
    source = make_plan(collection, PackOptions(shard_bytes=200_000, order="source"))
    assert source.order.tolist() == list(range(2000))


def test_shards_are_of_nearly_one_size() -> None:
    sizes = np.random.default_rng(0).integers(50_000, 150_000, 2000)
    plan = make_plan(listed(sizes.tolist()), PackOptions(shard_bytes=10_000_000))
    filled = [plan.source_bytes(shard) for shard in range(plan.shards)]
    assert plan.shards == -(-int(sizes.sum()) // 10_000_000)
    assert max(filled) - min(filled) < 2 * 150_000


def test_the_mixed_order_mixes_classes() -> None:
    labels = [number // 100 for number in range(1000)]  # sorted by class, as folders list them
    plan = make_plan(listed([100] * 1000, labels), PackOptions(shard_bytes=10_000))
    for shard in range(plan.shards):
        assert len({labels[number] for number in plan.numbers(shard)}) == 10


def test_the_order_of_an_item_does_not_depend_on_the_others() -> None:
    few, many = listed([1] * 50), listed([1] * 80)
    first = [n for n in make_plan(many, PackOptions()).order.tolist() if n < 50]
    assert make_plan(few, PackOptions()).order.tolist() == first


def test_a_task_reads_in_the_order_of_the_source() -> None:
    collection = listed([100] * 200)
    plan = make_plan(collection, PackOptions(shard_bytes=5000))
    items, ranks = plan.task(2, collection.items)
    paths = items.column("path").to_pylist()
    assert paths == sorted(paths)
    wanted = [f"image-{number:05d}" for number in plan.numbers(2)]
    assert [wanted[rank] for rank in ranks] == paths


def test_names_tell_the_number_of_shards() -> None:
    plan = make_plan(listed([100] * 40), PackOptions(shard_bytes=1000))
    assert [plan.name(0), plan.name(plan.shards - 1)] == [
        "train-00000-of-00004.parquet",
        "train-00003-of-00004.parquet",
    ]


def test_the_identity_follows_what_decides_the_bytes() -> None:
    collection = listed([1, 2, 3])
    base = identity(collection, PackOptions())
    assert identity(listed([1, 2, 3]), PackOptions(max_bad=0.5)) == base
    others = [
        PackOptions(order="source"),
        PackOptions(shard_bytes=1),
        PackOptions(row_group_rows=1),
        PackOptions(mean_std=True),
        PackOptions(short_side=256),
        PackOptions(short_side=256, quality=80),
        PackOptions(short_side=256, small="jpeg"),
    ]
    found = {base, *(identity(collection, options) for options in others), identity(listed([1, 2, 4]), PackOptions())}
    assert len(found) == len(others) + 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"short_side": 0}, "--short-side: 0 is out of range"),
        ({"quality": 101}, "--quality: 101"),
        ({"order": "mixd"}, "did you mean 'mixed'"),
        ({"small": "png"}, "--small: 'png'"),
        ({"max_bad": 1.5}, "--max-bad: 1.5"),
        ({"max_bad": -1}, "--max-bad: -1"),
        ({"row_group_rows": 0}, "--row-group-rows"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PackOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("limit", "allowed"), [(0.001, 1), (0, 0), (7, 7), (1.0, 1500), (1, 1)])
def test_limits_of_bad_images(limit: float, allowed: int) -> None:
    assert PackOptions(max_bad=limit).bad_limit(1500) == allowed
