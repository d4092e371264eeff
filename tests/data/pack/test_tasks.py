"""Calls of one function in threads: as they end, a few at a time, ended together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from kdray.data.pack.tasks import run_tasks, threads
from kdray.errors import DataError


def double(job: int, value: int, stopped: Callable[[], bool]) -> int:
    return job * value


def test_every_call_is_made_once() -> None:
    assert sorted(run_tasks(double, 2, ((n,) for n in range(50)), 0)) == [2 * n for n in range(50)]
    assert list(run_tasks(double, 2, [], 0)) == []


def test_calls_are_drawn_as_room_comes_free() -> None:
    drawn = 0

    def calls() -> Iterator[tuple[int]]:
        nonlocal drawn
        for number in range(1000):
            drawn += 1
            yield (number,)

    with closing(run_tasks(double, 1, calls(), 0)) as results:
        for taken, _ in enumerate(results, start=1):
            assert drawn <= taken + 2 * threads()
            if taken == 20:
                break
    assert drawn < 20 + 2 * threads() + 1


def test_an_error_ends_the_others() -> None:
    ended = threading.Event()

    def work(job: None, number: int, stopped: Callable[[], bool]) -> None:
        if number == 0:
            raise DataError("no")
        while not stopped():
            ended.wait(0.01)
        ended.set()

    with pytest.raises(DataError, match="no"):
        list(run_tasks(work, None, ((n,) for n in range(1, -1, -1)) if threads() > 1 else [(0,)], 0))
    assert ended.is_set() or threads() == 1


def test_closing_ends_what_runs() -> None:
    seen: list[bool] = []

    def work(job: None, number: int, stopped: Callable[[], bool]) -> int:
        if number:
            while not stopped():
                threading.Event().wait(0.01)
            seen.append(True)
        return number

    with closing(run_tasks(work, None, ((n,) for n in range(100)), 0)) as results:
        assert next(results) == 0
    assert len(seen) <= threads()
