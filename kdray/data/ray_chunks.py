"""Reading, decoding and augmenting in Ray Data tasks, in a planned order.

Two stages, kept apart: one task reads a span's encoded bytes and hands them on in pieces, one task decodes a piece.
Every piece travels as one row of a table, so that Ray Data, which cuts and merges blocks by bytes, leaves it whole.
Each training worker runs a pipeline of its own over its part of the plan; what a rank reads depends on no other rank.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import DataContext, ExecutionResources, TaskPoolStrategy

from kdray.data.chunks import Chunk, Recipe
from kdray.data.reader import Rows, images_at, read_rows
from kdray.data.threads import decode_rows, split_rows_evenly
from kdray.errors import ClusterError, KdrayError

_READS = 2  # spans that are read at the same time
# Parts of a task's CPU. Reading waits for storage most of its time, yet asks for something, or Ray would place it on a
# head node that is kept free; all reads and a decode task fit on one CPU together, so neither can keep the other out.
_READ_SHARE, _DECODE_SHARE = 0.02, 0.95
_STORE_SHARE = 0.4  # of the cluster's object store, for the pipelines of all ranks together
FREE_CPU_TIMEOUT_S = 60.0
_BUILDING = threading.Lock()  # a dataset takes over the context that is current in the whole process


def ray_chunks(
    spans: list[np.ndarray], recipe: Recipe, task_rows: int, data_cpus: float | None, world: int
) -> Iterator[Chunk]:
    """Yield the chunks of the dense rows in `spans` (int64 arrays, each read by one task), in order.

    `data_cpus` bounds the CPUs of this rank's tasks (None: what is free); the object store is shared by `world` ranks.

    Raises:
        ClusterError: no CPU is or comes free for the tasks.
        KdrayError: what a task raised.
    """
    if not spans:
        return
    task_cpus = min(1.0, data_cpus) if data_cpus else 1.0
    check_free_cpus(task_cpus, FREE_CPU_TIMEOUT_S)
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # a line or two for every epoch and every rank
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that there are no bars
    context.target_max_block_size = 1  # every row a block: see above
    context.execution_options.preserve_order = True
    store_bytes = ray.cluster_resources().get("object_store_memory", 0.0) * _STORE_SHARE / world
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        cpu=data_cpus or None, object_store_memory=store_bytes or None
    )
    with _BUILDING, DataContext.current(context):
        plan = ray.data.from_items([{"index": span.tobytes()} for span in spans], override_num_blocks=len(spans))
        pieces = plan.map_batches(
            partial(_read, recipe=recipe, task_rows=task_rows),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=_READ_SHARE * task_cpus,
            compute=TaskPoolStrategy(size=min(_READS, len(spans))),
        )
        decoded = pieces.map_batches(
            partial(_decode, recipe=recipe), batch_size=1, batch_format="pyarrow", num_cpus=_DECODE_SHARE * task_cpus
        )
        tables: Iterator[Any] = iter(decoded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    try:
        for table in tables:
            for row in range(table.num_rows):
                yield _unpack(table, row)
    except ray.exceptions.RayError as error:
        raise _own_error(error) from error
    finally:
        close = getattr(tables, "close", None)
        if close is not None:
            close()


def _read(plan: pa.Table, recipe: Recipe, task_rows: int) -> Iterator[pa.Table]:
    for span in plan.column("index").to_pylist():
        rows = read_rows(recipe.manifest, np.frombuffer(span, dtype=np.int64))
        for piece in split_rows_evenly(rows, task_rows):
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


def _own_error(error: BaseException) -> BaseException:
    """The KdrayError that a task raised, out of the errors that Ray wrapped around it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, KdrayError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return error


def check_free_cpus(cpus: float, timeout_s: float) -> None:
    """See to it that a task of `cpus` CPUs can run. Ray Data would wait for one silently, for half an hour.

    Other ranks' tasks may hold all CPUs for a moment, so where none is free a task is sent to wait for one.

    Raises:
        ClusterError: none came free within `timeout_s`.
    """
    if ray.available_resources().get("CPU", 0.0) >= cpus:
        return
    probe = ray.remote(_nothing).options(num_cpus=cpus, scheduling_strategy="SPREAD").remote()
    done, _ = ray.wait([probe], timeout=timeout_s)
    if done:
        return
    ray.cancel(probe)
    total, free = (resources().get("CPU", 0.0) for resources in (ray.cluster_resources, ray.available_resources))
    raise ClusterError(
        f"no CPU is free for reading and decoding: the tasks need {cpus:g}, "
        f"the cluster has {total:g} and {free:g} of them came free in {timeout_s:g} s",
        where="cluster",
        fix="Lower cluster.workers or cluster.cpus_per_worker (fractions such as 0.5 are fine), "
        "or set data.mode: resident",
    )


def _nothing() -> None:
    """What the probe runs."""
