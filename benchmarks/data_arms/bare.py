"""The limit: a process for each core takes row groups, decodes and augments them; no order, nobody to feed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from harness import SIZE, Job, Seen, run


def work(pipe: Connection, taken: Any, job: Job) -> None:
    """Take the next of the row groups until all of a pass are `taken`, for each pass asked for; tell of every batch."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from harness import seen

    from kdray.data.augment import build_augment
    from kdray.data.decode import decode

    augment = build_augment([{"random_resized_crop": {"size": SIZE}}, "flip"])
    files = [pq.ParquetFile(path) for path in sorted(Path(job.root).glob("*.parquet"))]
    groups = [(file, group) for file in files for group in range(file.metadata.num_row_groups)]
    while (epoch := pipe.recv()) is not None:
        while (at := take(taken)) < len(groups):
            file, group = groups[at]
            table = file.read_row_group(group, columns=["image.bytes"], use_threads=False)
            encoded = pa.chunked_array([chunk.field("bytes") for chunk in table["image"].chunks]).to_pylist()
            ids = np.arange(len(encoded), dtype=np.int64) + (at << 32)
            draws = augment.draw(job.seed, epoch, ids, 0)
            images = np.empty((len(encoded), SIZE, SIZE, 3), np.uint8)
            for i, data in enumerate(encoded):
                images[i] = augment.apply(decode(data), draws[i])
            batch = torch.from_numpy(images).permute(0, 3, 1, 2)
            pipe.send(seen(batch) if epoch == 0 else Seen(tuple(batch.shape), "uint8", 0.0))
        pipe.send(None)


def take(counter: Any) -> int:
    """The counter's value, which goes up by one."""
    with counter.get_lock():
        counter.value += 1
        return counter.value - 1


def arm(job: Job) -> Callable[[int], Iterator[Seen]]:
    """Processes that live over all passes."""
    context = get_context("spawn")
    pipes: list[Connection] = []
    taken = context.Value("l", 0)
    for _ in range(job.cores):
        mine, theirs = context.Pipe()
        context.Process(target=work, args=(theirs, taken, job), daemon=True).start()
        pipes.append(mine)

    def one_pass(number: int) -> Iterator[Seen]:
        taken.value = 0
        for pipe in pipes:
            pipe.send(number)
        busy = list(pipes)
        while busy:
            ready = wait(busy)
            for pipe in [pipe for pipe in busy if pipe in ready]:
                batch = pipe.recv()
                if batch is None:
                    busy.remove(pipe)
                else:
                    yield batch

    return one_pass


if __name__ == "__main__":
    run(arm)
