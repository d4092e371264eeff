"""The share of the wall clock that a run says it waited for data, on a clock that only the test moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kdray.data.batch import Batch
from kdray.data.threads import prefetch
from tests.train.conftest import DrawnFeed, MakeLoop


class Clock:
    """Stands where the loop expects the module `time`. Time passes in `spend`, for the thread that spends it."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._mine = threading.get_ident()

    def spend(self, seconds: float) -> None:
        if threading.get_ident() == self._mine:
            self._now += seconds

    def perf_counter(self) -> float:
        return self._now

    monotonic = time = perf_counter


class SlowFeed(DrawnFeed):
    """Each batch takes `seconds`, the first of an epoch `first` more; `ahead` makes them in a thread."""

    def __init__(self, clock: Clock, seconds: float, first: float = 0.0, ahead: int = 0) -> None:
        super().__init__()
        self.clock, self.seconds, self.first, self.ahead = clock, seconds, first, ahead

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        if not self.ahead:
            return self._slowly(epoch, start)
        return prefetch(lambda: self._slowly(epoch, start), self.ahead)

    def _slowly(self, epoch: int, start: int) -> Iterator[Batch]:
        self.clock.spend(self.first)
        for batch in super().epoch(epoch, start):
            self.clock.spend(self.seconds)
            yield batch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("loop", "meter"):
        monkeypatch.setattr(f"kdray.train.{module}.time", clock)
    return clock


def run(make_loop: MakeLoop, clock: Clock, feed: SlowFeed, step_s: float, **options: Any) -> list[dict[str, float]]:
    loop = make_loop(feed=feed, **options)
    step = loop._step

    def slow_step(batch: Batch) -> None:
        clock.spend(step_s)
        step(batch)

    loop._step = slow_step  # type: ignore[method-assign]
    return loop.run().history


@pytest.mark.parametrize(("batch_s", "step_s"), [(0.0, 2.0), (1.0, 3.0), (3.0, 1.0), (5.0, 0.0)])
def test_it_is_the_loaders_share_of_the_wall_clock(
    make_loop: MakeLoop, clock: Clock, batch_s: float, step_s: float
) -> None:
    for row in run(make_loop, clock, SlowFeed(clock, batch_s), step_s):
        assert row["data_wait"] == pytest.approx(batch_s / (batch_s + step_s))
        assert row["seconds"] == pytest.approx(6 * (batch_s + step_s))
        assert row["images_per_s"] == pytest.approx(8 / (batch_s + step_s))


def test_the_start_of_an_epoch_counts(make_loop: MakeLoop, clock: Clock) -> None:
    for row in run(make_loop, clock, SlowFeed(clock, 0.0, first=4.0), 1.0):
        assert row["data_wait"] == pytest.approx(4 / 10)


def test_validation_between_epochs_does_not_count(make_loop: MakeLoop, clock: Clock) -> None:
    def validate(net: Any) -> dict[str, float]:
        clock.spend(100.0)
        return {"top1": 0.5}

    for row in run(make_loop, clock, SlowFeed(clock, 1.0), 1.0, validate=validate):
        assert row["data_wait"] == pytest.approx(0.5) and row["seconds"] == pytest.approx(12.0)


def test_what_a_thread_makes_ahead_is_no_wait(make_loop: MakeLoop, clock: Clock) -> None:
    for row in run(make_loop, clock, SlowFeed(clock, 5.0, first=50.0, ahead=4), 1.0):
        assert row["data_wait"] == 0.0 and row["seconds"] == pytest.approx(6.0)
