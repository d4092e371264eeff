"""Ray Data as one who knows it would write it: encoded bytes in Parquet, decoded by the batch, kept as uint8."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from harness import SIZE, Job, run
from ray_start import start


def arm(job: Job) -> Callable[[int], Iterator[Any]]:
    """Files in a new order every pass, rows as they come."""
    start(job.cores)
    import ray.data
    from torchvision import transforms

    transform = transforms.Compose(
        [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    )

    def augment(batch: dict[str, Any]) -> dict[str, Any]:
        import io

        import numpy as np
        from PIL import Image

        images = [transform(Image.open(io.BytesIO(row["bytes"])).convert("RGB")).numpy() for row in batch["image"]]
        return {"image": np.stack(images), "label": batch["label"]}

    dataset = ray.data.read_parquet(job.root, shuffle="files", file_extensions=["parquet"])
    dataset = dataset.select_columns(["image", "label"]).map_batches(augment, batch_size=job.batch)
    return lambda number: (batch["image"] for batch in dataset.iter_torch_batches(batch_size=job.batch))


if __name__ == "__main__":
    run(arm)
