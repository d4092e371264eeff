"""What ranks tell each other between steps: who waited longest for data, which images do not decode. Real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdray.data.batch import Batch
from kdray.errors import DataError
from kdray.train.loop import Loop
from tests.ranks import run_ranks

from .conftest import DrawnFeed, build_loop
from .test_data_wait import Clock

MANY, FEW = 9, 2  # bad rows that a run takes
SLOW_RANK, WAIT_S, STEP_S = 1, 3.0, 1.0
BAD = {0: {10: frozenset({4})}, 1: {2: frozenset({40}), 9: frozenset({4, 41})}}  # by rank and batch of the epoch's 12


class TroubledFeed(DrawnFeed):
    """One rank's loader is slow; bad rows are met on the way, and more than `most` stop the run."""

    steps_per_epoch = 12

    def __init__(self, rank: int, clock: Clock, most: int) -> None:
        super().__init__()
        self.rank, self.clock, self.most = rank, clock, most

    def share_bad(self, rows: frozenset[int]) -> None:
        super().share_bad(rows)
        if len(self.bad_rows) > self.most:
            raise DataError(f"{sorted(self.bad_rows)} do not decode")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for number, batch in enumerate(super().epoch(epoch, start), start):
            self.clock.spend(WAIT_S if self.rank == SLOW_RANK else 0.0)
            self.bad_rows |= BAD[self.rank].get(number, frozenset()) if epoch == 0 else frozenset()
            yield batch


def loop_of(folder: Path, rank: int, world: int, most: int, epochs: int = 1) -> Loop:
    clock = Clock()
    for module in ("loop", "meter"):
        __import__(f"kdray.train.{module}", fromlist=["time"]).time = clock
    loop = build_loop(
        folder, f"run-{most}", feed=TroubledFeed(rank, clock, most), epochs=epochs, rank=rank, world=world, log_every=4
    )
    step = loop._step

    def slow_step(batch: Batch) -> None:
        # The ranks meet in the step: who has not waited for data waits there for who has.
        clock.spend(STEP_S + (0.0 if rank == SLOW_RANK else WAIT_S))
        step(batch)

    loop._step = slow_step  # type: ignore[method-assign]
    return loop


def worker(rank: int, folder: str) -> None:
    for most in (MANY, FEW):
        loop = loop_of(Path(folder), rank, 2, most)
        try:
            outcome = loop.run()
            found = {"wait": outcome.history[0]["data_wait"], "bad": outcome.extra["bad_images"]}
        except DataError as error:
            found = {"error": error.problem, "step": loop.step}
        (Path(folder) / f"found-{most}-{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left what they found, and their checkpoints."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(worker, str(folder))
    return folder


def both(folder: Path, most: int) -> list[dict[str, object]]:
    return [json.loads((folder / f"found-{most}-{rank}.json").read_text()) for rank in range(2)]


def test_the_wait_of_the_slowest_and_the_bad_images_of_all(folder: Path) -> None:
    for found in both(folder, MANY):
        assert found["wait"] == pytest.approx(WAIT_S / (WAIT_S + STEP_S))
        assert found["bad"] == 3


def test_a_run_that_goes_on_knows_of_the_bad_images_that_were_met(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("loop", "meter"):
        monkeypatch.setattr(f"kdray.train.{module}.time", None)  # as it was, when the test is over
    again = loop_of(folder, 0, 1, MANY, epochs=2)
    assert again.job.checkpoints is not None
    state = again.job.checkpoints.load_latest()
    assert state is not None and state["bad_rows"] == [4, 40, 41]
    again.load_state_dict(state)
    assert again.job.feed.bad_rows == {4, 40, 41}


def test_too_many_on_all_ranks_together_stop_all_of_them(folder: Path) -> None:
    for found in both(folder, FEW):
        assert found == {"error": "[4, 40, 41] do not decode", "step": 12}
