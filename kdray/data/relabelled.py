"""Batches under other labels than the shards': the one place where noise comes between the data and the loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from kdray.data.batch import Batch, TrainFeed


class RelabelledFeed:
    """The `TrainFeed` `feed`, whose batches say `labels` int64 [N] by index; see `kdray.data.feed.train_feed`."""

    def __init__(self, feed: TrainFeed, labels: np.ndarray, device: torch.device) -> None:
        self.steps_per_epoch, self.dropped = feed.steps_per_epoch, feed.dropped
        self._feed = feed
        self._labels = torch.tensor(labels, device=device)

    @property
    def bad_rows(self) -> frozenset[int]:
        return self._feed.bad_rows

    @property
    def bad_images(self) -> int:
        return self._feed.bad_images

    def share_bad(self, rows: frozenset[int]) -> None:
        self._feed.share_bad(rows)

    def close(self) -> None:
        self._feed.close()

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        batches = self._feed.epoch(epoch, start)
        try:
            for batch in batches:
                yield replace(batch, labels=self._labels[batch.index])
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()
