"""Chunks of any size become batches of one, each copied at once and let go."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from kdray.data.augment import build_augment
from kdray.data.batching import batches
from kdray.data.chunks import Chunk, Recipe
from kdray.data.recycled import Recycled
from kdray.errors import DataError

from .small import squares

VIEWS = 2


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    manifest = squares(tmp_path_factory.mktemp("set") / "set", 60)
    return Recipe(manifest, build_augment(["flip"], views=VIEWS), views=VIEWS)


def chunk(first: int, rows: int, side: int = 4, bad: tuple[int, ...] = ()) -> Chunk:
    """Rows from `first` on, whose pixels are their numbers; zeros where they are `bad`, of no size where all are."""
    index = np.arange(first, first + rows)
    images = np.broadcast_to(index.astype(np.uint8)[:, None, None, None], (VIEWS, rows, side, side, 3)).copy()
    images[:, [row - first for row in bad]] = 0
    if len(bad) == rows:
        images = np.empty((VIEWS, rows, 0, 0, 3), np.uint8)
    return Chunk(images, index % 5, index + 100, index, ["bad" if row in bad else "" for row in index.tolist()])


@pytest.mark.parametrize("sizes", [(60,), (7, 1, 20, 32), (1,) * 60, (25, 35)])
@pytest.mark.parametrize("size", [1, 16, 20, 60, 100])
def test_any_chunks_become_the_same_batches(recipe: Recipe, sizes: tuple[int, ...], size: int) -> None:
    firsts = np.cumsum([0, *sizes])[:-1]
    made = list(batches((chunk(int(first), rows) for first, rows in zip(firsts, sizes, strict=True)), size, recipe))
    assert [len(batch) for batch in made] == [size] * (60 // size) + ([60 % size] if 60 % size else [])
    for number, batch in enumerate(made):
        rows = np.arange(60)[number * size : (number + 1) * size]
        assert batch.images.flags.c_contiguous and batch.images.shape == (VIEWS, len(rows), 4, 4, 3)
        assert (batch.images == rows[:, None, None, None]).all()
        assert (batch.labels == rows % 5).all() and (batch.ids == rows + 100).all() and (batch.index == rows).all()


def test_chunks_without_a_good_row_lie_anywhere(recipe: Recipe) -> None:
    chunks = [chunk(0, 3, bad=(0, 1, 2)), chunk(3, 3, bad=(4,)), chunk(6, 2, bad=(6, 7)), chunk(8, 2)]
    (batch,) = batches(chunks, 10, recipe)
    assert batch.images[0, :, 0, 0, 0].tolist() == [0, 0, 0, 3, 0, 5, 0, 0, 8, 9]
    assert [bool(reason) for reason in batch.reasons] == [True] * 3 + [False, True, False, True, True, False, False]
    (empty,) = batches([chunk(0, 3, bad=(0, 1, 2))], 4, recipe)
    assert empty.images.shape == (VIEWS, 3, 0, 0, 3) and len(empty) == 3


def test_images_of_two_sizes_are_named(recipe: Recipe) -> None:
    with pytest.raises(DataError, match=r"different sizes: .*row 1\b.* as 4 x 4 and .*row 4\b.* as 5 x 5"):
        list(batches([chunk(1, 3), chunk(4, 2, side=5)], 5, recipe))


def test_a_chunk_is_let_go_before_the_next_one_is_asked_for(recipe: Recipe) -> None:
    alive: list[int] = []
    made: list[weakref.ref[np.ndarray]] = []

    def chunks() -> Iterator[Chunk]:
        for first in range(0, 60, 6):
            alive.append(sum(ref() is not None for ref in made))
            made_now = chunk(first, 6)
            made.append(weakref.ref(made_now.images))
            yield made_now
            del made_now

    assert sum(len(batch) for batch in batches(chunks(), 40, recipe)) == 60
    assert alive == [0] * 10, "a batch is larger than what the object store may hold"


def test_memory_is_lent_again_only_when_all_of_it_is_given_back() -> None:
    lend = Recycled()
    array = lend((2, 3, 4))
    array[:] = 7
    first = array.ctypes.data
    view = torch.from_numpy(array[1:]).flatten()[2:5]
    del array
    gc.collect()
    other = lend((2, 3, 4))
    assert other.ctypes.data != first and view.tolist() == [7, 7, 7]
    del view
    assert lend((24,)).ctypes.data == first
    assert lend((4, 6)).ctypes.data == first  # the one above lived as long as its line
    assert lend((5, 5)).nbytes == 25 and other.flags.writeable


def test_blocks_that_nobody_wants_are_let_go() -> None:
    lend = Recycled()
    arrays = [lend((1000,)) for _ in range(50)]
    alive = [weakref.ref(array.base.base._block) for array in arrays]  # a view, the array, the loan
    del arrays
    assert 0 < sum(ref() is not None for ref in alive) <= 8
    lend((10,))
    assert sum(ref() is not None for ref in alive) == 0
