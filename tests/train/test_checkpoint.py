"""Checkpoints: whole, pruned, found by themselves, damaged ones passed over."""

from pathlib import Path

import pytest
import torch

from kdray.errors import StoreError, TrainingError
from kdray.store import Store
from kdray.train.checkpoint import Checkpoints, snapshot


def state(step: int) -> dict:
    return {"step": step, "weights": torch.full((3,), float(step)), "nested": [{"x": torch.arange(2)}, None, "text"]}


def test_the_newest_is_found_and_only_so_many_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Store(str(tmp_path)), keep=2)
    assert checkpoints.load_latest() is None
    for step in (5, 10, 1000):
        checkpoints.save(step, state(step))
    checkpoints.wait()
    assert checkpoints.names() == ["step-000000010.pt", "step-000001000.pt"]
    loaded = Checkpoints(Store(str(tmp_path)), keep=2).load_latest()
    assert loaded is not None and loaded["step"] == 1000
    assert torch.equal(loaded["weights"], torch.full((3,), 1000.0))
    assert loaded["nested"][1:] == [None, "text"]


def test_saving_copies_first_so_that_training_may_go_on(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Store(str(tmp_path)), keep=1)
    weights = torch.zeros(1000)
    checkpoints.save(1, {"weights": weights})
    weights += 1
    checkpoints.wait()
    loaded = checkpoints.load_latest()
    assert loaded is not None and torch.equal(loaded["weights"], torch.zeros(1000))


def test_a_damaged_newest_falls_back_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(Store(str(tmp_path)), keep=3)
    for step in (1, 2):
        checkpoints.save(step, state(step))
    checkpoints.wait()
    newest = tmp_path / "checkpoints" / "step-000000002.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    loaded = checkpoints.load_latest()
    assert loaded is not None and loaded["step"] == 1
    assert "step-000000002.pt" in caplog.text


def test_only_damaged_ones_are_an_error_not_a_silent_restart(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Store(str(tmp_path)), keep=1)
    checkpoints.save(1, state(1))
    checkpoints.wait()
    (tmp_path / "checkpoints" / "step-000000001.pt").write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match="--fresh"):
        checkpoints.load_latest()


def test_a_failed_write_reaches_the_training_thread(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    checkpoints = Checkpoints(Store(str(tmp_path)), keep=1)
    checkpoints.save(1, state(1))
    with pytest.raises(StoreError):
        checkpoints.wait()


def test_snapshot_shares_nothing() -> None:
    source = {"a": torch.ones(2), "b": (torch.ones(1), [3])}
    copy = snapshot(source)
    source["a"].zero_()
    assert torch.equal(copy["a"], torch.ones(2)) and copy["b"][1] == [3]
