"""Ray Data as its documentation feeds images to training: read_images, map with torchvision, iter_torch_batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import MEAN, SIZE, STD, Job, run
from ray_start import start


def arm(job: Job) -> Callable[[int], Iterator[Any]]:
    """One dataset, iterated over once a pass."""
    start(job.cores)
    import ray.data
    from ray.data.datasource.partitioning import Partitioning, PartitionStyle
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    def augment(row: dict[str, Any]) -> dict[str, Any]:
        return {"image": transform(row["image"]), "label": labels[row["class"]]}

    labels = {folder.name: label for label, folder in enumerate(sorted(Path(job.root).iterdir()))}
    partitioning = Partitioning(PartitionStyle.DIRECTORY, field_names=["class"], base_dir=job.root)
    dataset = ray.data.read_images(job.root, mode="RGB", partitioning=partitioning).map(augment)
    return lambda number: (batch["image"] for batch in dataset.iter_torch_batches(batch_size=job.batch))


if __name__ == "__main__":
    run(arm)
