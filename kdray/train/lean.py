"""Ray Train's torch trainer without the processes that kdray has no use for."""

from __future__ import annotations

from typing import Any

import ray.train.torch

SHARES_DATA, CLEANS_UP = "DatasetsCallback", "PlacementGroupCleanerCallback"


class LeanTrainer(ray.train.torch.TorchTrainer):
    """Starts no process that shares out Ray Data sets: kdray's workers read their own. On a cluster that ends with
    this process (`local`), none that would take its reservations back after its death either.

    Each is an interpreter that imports Ray Train, seconds of CPU for every stage. What Ray Train calls them is its own
    affair: under other names they are started, and do no harm.
    """

    local = False

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        unused = (SHARES_DATA, CLEANS_UP) if self.local else (SHARES_DATA,)
        return [callback for callback in callbacks if type(callback).__name__ not in unused]
