"""What the training loop sees of the data: batches of uint8 images on its device, from memory or from a stream.

Both feeds give the same batches, pixel for pixel: which one is used is a matter of size and speed.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from kdray.data.augment import output_size
from kdray.data.batch import EvalFeed, TrainFeed
from kdray.data.footprint import decoded_bytes
from kdray.data.manifest import Manifest
from kdray.errors import ConfigError, DataError
from kdray.experiment import Data

log = logging.getLogger(__name__)


def train_feed(
    data: Data,
    manifest: Manifest,
    rows: np.ndarray,
    *,
    batch: int,
    seed: int,
    labels: np.ndarray | None = None,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    use_ray: bool = False,
    data_cpus: float | None = None,
    epochs: int | None = None,
) -> TrainFeed:
    """Feed the dense `rows` int64 [n] for training, in global batches of `batch` of which this rank gets 1 / `world`.

    `labels` int64 [N] by dense row number stand in for the shards' own: the split's, where `data` asks for label noise.
    `use_ray` streams through Ray actors with `data_cpus` CPUs for this rank (None: what is free), which start now;
    else threads of this process do the work. A streamed epoch of these `epochs` (None: without
    end) begins while the one before ends.

    Raises:
        ConfigError: transforms that do not exist, a batch that the ranks cannot share evenly.
        DataError: fewer rows than one batch.
    """
    from kdray.data.relabelled import RelabelledFeed
    from kdray.data.resident import ResidentTrainFeed
    from kdray.data.stream import StreamTrainFeed

    if (data.label_noise is None) != (labels is None):
        raise ValueError("labels are given exactly where data.label_noise asks for others than the shards' own")
    device = torch.device(device)
    if batch % world:
        raise ConfigError(
            f"a batch of {batch} cannot be shared evenly by {world} workers",
            where="train.batch",
            fix=f"Use a multiple of {world}",
        )
    if len(rows) < batch:
        raise DataError(
            f"{len(rows)} training images do not fill one batch of {batch}",
            where="train.batch",
            fix="Lower train.batch, data.validation or raise data.limit",
        )
    dropped = len(rows) % batch
    if dropped and rank == 0:
        log.info("%d of %d training images are left out of each epoch: no whole batch of %d", dropped, len(rows), batch)
    feed: TrainFeed
    if will_stream(data, manifest, len(rows)):
        feed = StreamTrainFeed(data, manifest, rows, batch, seed, rank, world, device, use_ray, data_cpus, epochs)
    else:
        feed = ResidentTrainFeed(data, manifest, rows, batch, seed, rank, world, device)
    return feed if labels is None else RelabelledFeed(feed, labels, device)


def eval_feed(
    data: Data,
    manifest: Manifest,
    rows: np.ndarray,
    *,
    batch: int,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    use_ray: bool = False,
    data_cpus: float | None = None,
) -> EvalFeed:
    """Feed this rank's share of the dense `rows` int64 [n] for evaluation, `batch` at a time on this rank.

    Raises:
        ConfigError: transforms that do not exist or are random.
    """
    from kdray.data.resident import ResidentEvalFeed
    from kdray.data.stream import StreamEvalFeed

    mine = rows[rank * len(rows) // world : (rank + 1) * len(rows) // world]
    if will_stream(data, manifest, len(rows), judged=True):
        return StreamEvalFeed(data, manifest, mine, len(rows), batch, world, torch.device(device), use_ray, data_cpus)
    return ResidentEvalFeed(data, manifest, mine, len(rows), batch, torch.device(device))


def will_stream(data: Data, manifest: Manifest, rows: int | None = None, judged: bool = False) -> bool:
    """Whether `data.mode` means stream for `rows` rows (None: all) of these shards: for auto, whether the images that
    would be kept exceed `data.resident_limit_bytes`: decoded, and for evaluation (`judged`) also transformed.
    """
    if data.mode != "auto":
        return data.mode == "stream"
    if judged:
        side = output_size(data.eval_transform, None)
        kept = 3 * (side or 0) ** 2 * (manifest.num_samples if rows is None else rows)
        if kept > data.resident_limit_bytes:
            return True
    share = 1.0 if rows is None else rows / max(1, manifest.num_samples)
    if manifest.image_bytes * share > data.resident_limit_bytes:
        return True  # decoded images are no smaller: nothing has to be read to know
    return decoded_bytes(manifest) * share > data.resident_limit_bytes
