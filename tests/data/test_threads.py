"""Threads that make chunks: always busy, in order, and without a copy on the way to the batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import islice, pairwise

import numpy as np
import pytest

from kdray.data.augment import build_augment
from kdray.data.batching import batches
from kdray.data.chunks import Growing, Recipe
from kdray.data.decode import BadImage
from kdray.data.reader import Rows
from kdray.data.threads import Workers, regroup
from kdray.errors import DataError, KdrayError

from .small import squares

SIDE, TIMEOUT_S = 4, 20.0


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return Recipe(squares(tmp_path_factory.mktemp("set") / "set", 60), build_augment(["flip"]))


@pytest.fixture(params=[1, 2, 5])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    pool = Workers(request.param)
    yield pool
    pool.close()


def growing(recipe: Recipe, first: int, rows: int, wait: threading.Event | None = None) -> Growing:
    """Rows whose pixels are their numbers; the last one waits."""
    index = np.arange(first, first + rows)

    def pixels(i: int) -> np.ndarray:
        if wait is not None and i == rows - 1:
            assert wait.wait(TIMEOUT_S)
        return np.full((SIDE, SIDE, 3), index[i], np.uint8)

    return Growing(pixels, index % 5, index, index, recipe)


def test_chunks_come_in_order_and_are_batches_as_they_are(recipe: Recipe, workers: Workers) -> None:
    made = []

    def chunks() -> Iterator:  # type: ignore[type-arg]
        for chunk in workers.chunks((growing(recipe, first, 20) for first in (0, 20, 40)), 20):
            made.append(chunk)
            yield chunk

    found = list(batches(chunks(), 20, recipe))
    assert [id(one.images) for one in found] == [id(one.images) for one in made], "pixels were copied"
    assert np.concatenate([one.images[0, :, 0, 0, 0] for one in found]).tolist() == list(range(60))
    assert np.concatenate([one.index for one in found]).tolist() == list(range(60))


def test_batches_of_another_size_are_copied_together(recipe: Recipe, workers: Workers) -> None:
    chunks = workers.chunks((growing(recipe, first, 20) for first in (0, 20, 40)), 20)
    found = list(batches(chunks, 25, recipe))
    assert [len(one) for one in found] == [25, 25, 10]
    assert np.concatenate([one.images[0, :, 0, 0, 0] for one in found]).tolist() == list(range(60))


def test_those_that_follow_are_made_while_one_waits_for_its_last_row(recipe: Recipe) -> None:
    first_may_end, second_is_made = threading.Event(), threading.Event()

    class Told(Growing):
        def row(self, i: int):  # type: ignore[no-untyped-def]
            made = super().row(i)
            if i == len(self) - 1:
                second_is_made.set()
            return made

    def coming() -> Iterator[Growing]:
        yield growing(recipe, 0, 32, first_may_end)
        index = np.arange(32, 48)
        yield Told(lambda i: np.full((SIDE, SIDE, 3), index[i], np.uint8), index % 5, index, index, recipe)

    def let_go() -> None:
        if second_is_made.wait(TIMEOUT_S):
            first_may_end.set()

    waiter = threading.Thread(target=let_go)
    waiter.start()
    pool = Workers(2)
    try:
        assert [len(chunk) for chunk in pool.chunks(coming(), 32)] == [32, 16]
    finally:
        pool.close()
        waiter.join()
    assert first_may_end.is_set()


def test_no_more_are_begun_than_keep_the_threads_busy(recipe: Recipe) -> None:
    begun = 0
    never = threading.Event()

    def coming() -> Iterator[Growing]:
        nonlocal begun
        for first in range(0, 6400, 64):
            begun += 1
            yield growing(recipe, first, 64, never if first else None)

    pool = Workers(2)
    try:
        made = pool.chunks(coming(), 64)
        assert len(next(made)) == 64
        assert 1 <= begun <= 4
    finally:
        never.set()
        made.close()
        pool.close()


def test_what_was_begun_before_a_failure_comes_first(recipe: Recipe, workers: Workers) -> None:
    def coming() -> Iterator[Growing]:
        yield growing(recipe, 0, 20)
        yield growing(recipe, 20, 20)
        raise KdrayError("the disk is on fire")

    made = workers.chunks(coming(), 20)
    assert [len(chunk) for chunk in islice(made, 2)] == [20, 20]
    with pytest.raises(KdrayError, match="on fire"):
        next(made)


def test_what_is_done_does_not_wait_for_what_is_not_read_yet(recipe: Recipe, workers: Workers) -> None:
    read = threading.Event()

    def coming() -> Iterator[Growing]:
        yield growing(recipe, 0, 20)
        assert read.wait(TIMEOUT_S)
        yield growing(recipe, 20, 20)

    made = workers.chunks(coming(), 20)
    assert len(next(made)) == 20 and not read.is_set()
    read.set()
    assert len(next(made)) == 20
    assert list(made) == []


def test_bad_rows_and_a_row_that_fails(recipe: Recipe, workers: Workers) -> None:
    def chunk(bad: set[int], fails: int = -1) -> Growing:
        def pixels(i: int) -> np.ndarray:
            if i in bad:
                raise BadImage("no image")
            if i == fails:
                raise DataError("too small", where="crop")
            return np.full((SIDE, SIDE, 3), 7, np.uint8)

        index = np.arange(40)
        return Growing(pixels, index % 5, index, index, recipe)

    made = workers.chunks((one for one in (chunk({3, 39}), chunk(set(range(40))), chunk(set(), fails=17))), 40)
    some, none = next(made), next(made)
    assert [i for i, reason in enumerate(some.reasons) if reason] == [3, 39]
    assert not some.images[:, [3, 39]].any() and (np.delete(some.images, [3, 39], axis=1) == 7).all()
    assert none.images.shape == (1, 40, 0, 0, 3) and all(none.reasons)
    with pytest.raises(DataError, match=r"data\.augment: crop on .*row 17: too small"):
        next(made)


def test_left_early_nothing_goes_on(recipe: Recipe) -> None:
    went, closed = [], False

    def slow(i: int) -> np.ndarray:
        went.append(i)
        time.sleep(0.002)
        return np.zeros((SIDE, SIDE, 3), np.uint8)

    def coming() -> Iterator[Growing]:
        nonlocal closed
        try:
            for _ in range(100):
                index = np.arange(64)
                yield Growing(slow, index % 5, index, index, recipe)
        finally:
            closed = True

    pool = Workers(2)
    made = pool.chunks(coming(), 64)
    next(made)
    made.close()
    pool.close()
    rows = len(went)
    time.sleep(0.05)
    assert closed and len(went) == rows < 4 * 64


def test_batches_share_no_memory_with_what_they_were_made_of(recipe: Recipe, workers: Workers) -> None:
    index = np.arange(20)
    one = Growing(lambda i: np.zeros((SIDE, SIDE, 3), np.uint8), index, index, index, recipe)
    (batch,) = batches(workers.chunks((each for each in (one,)), 20), 20, recipe)
    assert not any(np.shares_memory(column, index) for column in (batch.labels, batch.ids, batch.index))


@pytest.mark.parametrize("size", [1, 7, 20, 60, 100])
@pytest.mark.parametrize("sizes", [(60,), (7, 1, 20, 32), (0, 60, 0)])
def test_rows_are_regrouped_in_order(sizes: tuple[int, ...], size: int) -> None:
    whole = Rows([bytes([i]) for i in range(60)], np.arange(60) % 5, np.arange(60) + 100, np.arange(60))
    ends = np.cumsum([0, *sizes]).tolist()
    found = list(regroup((whole.cut(*at) for at in pairwise(ends)), size))
    assert [len(rows) for rows in found] == [size] * (60 // size) + ([60 % size] if 60 % size else [])
    joined = Rows.join(found)
    assert joined.images == whole.images
    for name in ("labels", "ids", "index"):
        assert (getattr(joined, name) == getattr(whole, name)).all()
