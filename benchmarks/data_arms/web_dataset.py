"""WebDataset: tar shards, decoded by Pillow, torchvision's transforms, a worker for each core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import Job, run
from loader import transform

SHUFFLE = 1000  # samples


def arm(job: Job) -> Callable[[int], Iterator[Any]]:
    """As its documentation has it: shards shuffled, then samples in a buffer, batches made in the workers."""
    import webdataset as wds

    urls = [str(path) for path in sorted(Path(job.root).glob("*.tar"))]
    data = wds.WebDataset(urls, shardshuffle=len(urls), seed=job.seed).shuffle(SHUFFLE)
    data = data.decode("pil").to_tuple("jpg", "cls").map_tuple(transform(job.option), int).batched(job.batch)
    loader = wds.WebLoader(data, batch_size=None, num_workers=job.cores)
    return lambda number: (images for images, _ in loader)


if __name__ == "__main__":
    run(arm)
