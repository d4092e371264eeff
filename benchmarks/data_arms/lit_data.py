"""LitData: its own chunks of JPEGs, which it decodes to tensors, torchvision's transforms on them, a worker for each
core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from harness import MEAN, SIZE, STD, Job, run


def arm(job: Job) -> Callable[[int], Iterator[Any]]:
    """A shuffled StreamingDataset over local chunks."""
    import torch
    from litdata import StreamingDataLoader, StreamingDataset
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    class Photos(StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[torch.Tensor, int]:
            row = super().__getitem__(index)
            return transform(row["image"]), row["label"]

    data = Photos(job.root, shuffle=True, seed=job.seed)
    loader = StreamingDataLoader(data, batch_size=job.batch, num_workers=job.cores)
    return lambda number: (images for images, _ in loader)


if __name__ == "__main__":
    run(arm)
