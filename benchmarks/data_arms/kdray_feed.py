"""kdray's own feed, as a training worker takes it. Options: `ray` streams through Ray, `ray_data` through Ray
Data, `threads` without either, `resident` keeps the decoded images in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from harness import SIZE, Job, run
from ray_start import start


def arm(job: Job) -> Callable[[int], Iterator[Any]]:
    """The train feed of one worker, to which all cores are given for its data."""
    use_ray = job.option.startswith("ray")
    if use_ray:
        start(job.cores)
    import numpy as np

    from kdray.data.feed import train_feed
    from kdray.data.manifest import read_manifest
    from kdray.experiment import Data

    manifest = read_manifest(job.root)
    mode: Any = "resident" if job.option == "resident" else "stream"
    engine: Any = "ray_data" if job.option == "ray_data" else "actors"
    augment = [{"random_resized_crop": {"size": SIZE}}, "flip"]
    data = Data(train=job.root, mode=mode, engine=engine, augment=augment)
    feed = train_feed(
        data,
        manifest,
        np.arange(manifest.num_samples),
        batch=job.batch,
        seed=job.seed,
        use_ray=use_ray,
        data_cpus=float(job.cores) if use_ray else None,
    )
    return lambda number: (batch.images for batch in feed.epoch(number))


if __name__ == "__main__":
    run(arm)
