"""What a user has today: a folder of files, torchvision's ImageFolder and transforms, a DataLoader.

Option `uint8` leaves the conversion to normalised floats out, as kdray does until the batch is on its device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from harness import MEAN, SIZE, STD, Job, run


def transform(option: str) -> Any:
    """The usual training transform, to float32 or uint8 [3, 224, 224]."""
    from torchvision import transforms

    ops = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    if option == "uint8":
        return transforms.Compose([*ops, transforms.PILToTensor()])
    return transforms.Compose([*ops, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def arm(job: Job) -> Callable[[int], Iterator[Any]]:
    """A worker process for each core, which lives over all passes, as kdray's do."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    torch.manual_seed(job.seed)
    data = ImageFolder(job.root, transform(job.option))
    loader = DataLoader(data, job.batch, shuffle=True, num_workers=job.cores, persistent_workers=True)
    return lambda number: (images for images, _ in loader)


if __name__ == "__main__":
    run(arm)
