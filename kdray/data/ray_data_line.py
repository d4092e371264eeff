"""Carrying out a plan with Ray Data, for `data.engine: ray_data`: two stages over the windows of the plan, in order.

One task reads a window and hands its rows on in pieces, one task decodes a piece. Each piece travels as one row of a
table, so that Ray Data, which cuts and merges blocks by bytes, leaves it whole. Every training worker runs a pipeline
of its own over its part of the plan, so what a rank reads depends on no other rank.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import DataContext, ExecutionResources, TaskPoolStrategy

from kdray.data.chunks import Chunk, Recipe
from kdray.data.ray_chunks import own_error
from kdray.data.ray_pool import FREE_CPU_TIMEOUT_S, check_free_cpus
from kdray.data.reader import Rows, images_at, read_rows
from kdray.data.threads import decode_rows, split_rows_evenly

_READS = 2  # windows that are read at the same time
# Parts of a task's CPU; see `ray_pool`. All reads and a decode task fit on one CPU together, so that neither can keep
# the other out.
_READ_SHARE, _DECODE_SHARE = 0.02, 0.95
_STORE_SHARE = 0.4  # of the cluster's object store, for the pipelines of all ranks; one runs at a time
_BUILDING = threading.Lock()  # a dataset takes over the context that is current in the whole process


class RayDataLine:
    """One plan, carried out: the chunks of the dense rows in `spans` (int64 arrays, each read by one task), in order.

    `data_cpus` bounds the CPUs of this rank's tasks (None: what is free); the object store is shared by `world` ranks.
    """

    def __init__(
        self, piece_rows: int, data_cpus: float | None, world: int, spans: list[np.ndarray], recipe: Recipe
    ) -> None:
        self._spans, self._recipe, self._piece_rows = spans, recipe, piece_rows
        self._data_cpus, self._world = data_cpus, world

    def chunks(self, follow: Callable[[], object]) -> Iterator[Chunk]:
        """Yield the chunks. What follows is not begun early: two pipelines would share the CPUs of one.

        Raises:
            ClusterError: no CPU is or comes free for the tasks.
            KdrayError: what a task raised.
        """
        if not self._spans:
            return
        check_free_cpus(self._task_cpus, FREE_CPU_TIMEOUT_S)
        with _BUILDING, DataContext.current(self._context()):
            tables: Iterator[Any] = iter(
                self._pipeline().iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
            )
        try:
            for table in tables:
                for row in range(table.num_rows):
                    yield _unpack(table, row)
        except ray.exceptions.RayError as error:
            raise own_error(error) from error
        finally:
            close = getattr(tables, "close", None)
            if close is not None:
                close()

    def close(self) -> None:
        """Nothing runs outside `chunks`."""

    @property
    def _task_cpus(self) -> float:
        return min(1.0, self._data_cpus) if self._data_cpus else 1.0

    def _context(self) -> DataContext:
        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)  # a line or two for every epoch and every rank
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that there are no bars
        context.target_max_block_size = 1  # every row a block: see above
        context.execution_options.preserve_order = True
        store_bytes = ray.cluster_resources().get("object_store_memory", 0.0) * _STORE_SHARE / self._world
        context.execution_options.resource_limits = ExecutionResources.for_limits(
            cpu=self._data_cpus or None, object_store_memory=store_bytes or None
        )
        return context

    def _pipeline(self) -> ray.data.Dataset:
        windows = [{"index": span.tobytes()} for span in self._spans]
        pieces = ray.data.from_items(windows, override_num_blocks=len(windows)).map_batches(
            partial(_read, recipe=self._recipe, piece_rows=self._piece_rows),
            num_cpus=_READ_SHARE * self._task_cpus,
            compute=TaskPoolStrategy(size=min(_READS, len(windows))),
            batch_size=1,
            batch_format="pyarrow",
        )
        return pieces.map_batches(
            partial(_decode, recipe=self._recipe),
            num_cpus=_DECODE_SHARE * self._task_cpus,
            batch_size=1,
            batch_format="pyarrow",
        )


def _read(windows: pa.Table, recipe: Recipe, piece_rows: int) -> Iterator[pa.Table]:
    for span in windows.column("index").to_pylist():
        rows = read_rows(recipe.manifest, np.frombuffer(span, dtype=np.int64))
        for piece in split_rows_evenly(rows, piece_rows):
            yield pa.table(
                {
                    "encoded": pa.array([piece.images], pa.list_(pa.large_binary())),
                    "columns": pa.array([_columns(piece)], pa.large_binary()),
                }
            )


def _decode(pieces: pa.Table, recipe: Recipe) -> Iterator[pa.Table]:
    for row in range(pieces.num_rows):
        encoded = pa.table({"image": pieces.column("encoded")[row].values})
        labels, ids, index = _from_columns(pieces.column("columns")[row])
        chunk = decode_rows(Rows(images_at(encoded), labels, ids, index), recipe)
        yield pa.table(
            {
                "pixels": _one_binary(chunk.images),
                "shape": pa.array([list(chunk.images.shape)], pa.list_(pa.int64())),
                "columns": pa.array([_columns(chunk)], pa.large_binary()),
                "reasons": pa.array([chunk.reasons if any(chunk.reasons) else None], pa.list_(pa.string())),
            }
        )


def _unpack(table: pa.Table, row: int) -> Chunk:
    """A chunk whose pixels lie where the object store holds them."""
    labels, ids, index = _from_columns(table.column("columns")[row])
    pixels = np.frombuffer(table.column("pixels")[row].as_buffer(), dtype=np.uint8)
    reasons = table.column("reasons")[row].as_py() or [""] * len(labels)
    return Chunk(pixels.reshape(table.column("shape")[row].as_py()), labels, ids, index, reasons)


def _columns(rows: Rows | Chunk) -> bytes:
    return np.stack([rows.labels, rows.ids, rows.index]).astype(np.int64).tobytes()


def _from_columns(scalar: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, ids, index = np.frombuffer(scalar.as_buffer(), dtype=np.int64).reshape(3, -1)
    return labels, ids, index


def _one_binary(array: np.ndarray) -> pa.Array:
    """An array of one binary value over the memory of `array`, not copied."""
    ends = pa.py_buffer(np.array([0, array.nbytes], dtype=np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(array.reshape(-1))])
