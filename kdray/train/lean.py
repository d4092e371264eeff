"""Ray Train's torch trainer without a process that kdray has no use for."""

from __future__ import annotations

from typing import Any

import ray.train.torch

SHARES_DATA = "DatasetsCallback"


class LeanTrainer(ray.train.torch.TorchTrainer):
    """Starts no process that shares out Ray Data sets: kdray's workers read their own.

    It would be an interpreter that imports Ray Train, seconds of CPU for every stage. What Ray Train calls it is its
    own affair: under another name it is started, and does no harm.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if type(callback).__name__ != SHARES_DATA]
