"""TensorBoard reads a run store on S3, as cluster/README.md says."""

from __future__ import annotations

from typing import Any

import pytest
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from kdray.store import Store
from kdray.train.board import Board
from tests.conftest import S3


class Silent:
    """A listener that does nothing."""

    def event(self, kind: str, values: dict[str, Any]) -> None:
        pass

    def stop_requested(self) -> bool:
        return False


def test_scalars_are_read_from_s3(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_ENDPOINT", s3.endpoint)  # TensorBoard's own name for AWS_ENDPOINT_URL
    folder = s3.uri("board/artifacts")
    board = Board(Store(f"{folder}/student-0123"), Silent())
    board.event("start", {"steps": 10, "step": 0})
    board.event("log", {"step": 1, "epoch": 1, "batch": 2, "loss/total": 1.5})
    board.event("epoch", {"epoch": 1, "val/top1": 0.5})
    runs = EventMultiplexer().AddRunsFromDirectory(folder)
    runs.Reload()
    assert [event.value for event in runs.Scalars("student-0123/tensorboard", "val/top1")] == [0.5]
    assert [event.step for event in runs.Scalars("student-0123/tensorboard", "loss/total")] == [1]
