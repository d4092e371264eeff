"""The journal of trials: whole files, the newest form of each, and no error that nobody hears of."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path

import pytest

from kdray.errors import StoreError
from kdray.store import Store
from kdray.tune.journal import Journal
from kdray.tune.trials import Trial, new_trial


class Slow(Store):
    """A store that writes when it is told, and counts."""

    def __init__(self, uri: Path) -> None:
        super().__init__(uri)
        self.go = threading.Event()
        self.begun = threading.Event()
        self.written: list[str] = []
        self.error: Exception | None = None

    def write_text(self, rel: str, text: str) -> None:
        self.begun.set()
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        super().write_text(rel, text)
        self.written.append(rel)


def trial(number: int, epochs: int = 0) -> Trial:
    return new_trial(number, {"objectives.kd.weight": 0.5}, {}) | {"epochs": epochs}


def test_what_is_put_is_loaded_by_number(tmp_path: Path) -> None:
    journal = Journal(Store(tmp_path), "runs/r/search")
    assert journal.load() == []
    trials = [trial(number) | {"error": "größer"} for number in (12, 3, 100)]
    for each in trials:
        journal.put(each)
    journal.close()
    again = Journal(Store(tmp_path), "runs/r/search").load()
    assert [each["number"] for each in again] == [3, 12, 100]
    assert again[0] == trials[1]
    assert sorted(path.name for path in (tmp_path / "runs/r/search/trials").iterdir()) == [
        "00003.json",
        "00012.json",
        "00100.json",
    ]


def test_a_trial_is_kept_as_it_was_when_it_was_put(tmp_path: Path) -> None:
    journal, one = Journal(Store(tmp_path), "s"), trial(0, 1)
    journal.put(one)
    one["epochs"] = 99
    journal.close()
    assert journal.load()[0]["epochs"] == 1


def test_only_the_newest_form_is_written(tmp_path: Path) -> None:
    store = Slow(tmp_path)
    journal = Journal(store, "s")
    journal.put(trial(0, 1))
    assert store.begun.wait(10)  # the first write is under way, and what comes now waits for it
    for epoch in range(2, 50):
        journal.put(trial(0, epoch))
        journal.put(trial(1, epoch))
    store.go.set()
    journal.flush()
    assert store.written == ["s/trials/00000.json", "s/trials/00000.json", "s/trials/00001.json"]
    assert [each["epochs"] for each in journal.load()] == [49, 49]
    journal.close()


def test_flush_returns_when_all_is_written(tmp_path: Path) -> None:
    store = Slow(tmp_path)
    journal = Journal(store, "s")
    journal.put(trial(0))
    flushed = threading.Thread(target=journal.flush)
    flushed.start()
    assert store.begun.wait(10)
    flushed.join(0.1)
    assert flushed.is_alive()
    store.go.set()
    flushed.join(10)
    assert not flushed.is_alive() and store.written
    journal.close()


@pytest.mark.parametrize("error", [StoreError("is full", where="s3://b"), RuntimeError("is full")])
def test_an_error_of_the_store_surfaces_everywhere(tmp_path: Path, error: Exception) -> None:
    store = Slow(tmp_path)
    store.error = error
    journal = Journal(store, "s")
    journal.put(trial(0))
    store.go.set()
    for _ in range(2):
        with pytest.raises(StoreError, match="is full"):
            journal.flush()
    with pytest.raises(StoreError, match="is full"):
        journal.put(trial(1))
    with pytest.raises(StoreError, match="is full"):
        journal.close()


def test_a_folder_that_takes_no_write_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a file where the folder is to be")
    journal = Journal(Store(tmp_path), "s")
    journal.put(trial(0))
    with pytest.raises(StoreError):
        journal.close()


def test_what_json_cannot_hold_is_refused_at_once(tmp_path: Path) -> None:
    journal = Journal(Store(tmp_path), "s")
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            journal.put(trial(0) | {"value": bad})
    journal.close()
    assert journal.load() == []


def test_a_damaged_trial_is_named(tmp_path: Path) -> None:
    journal = Journal(Store(tmp_path), "s")
    for number in range(3):
        journal.put(trial(number))
    journal.close()
    (tmp_path / "s/trials/00001.json").write_text('{"number": 1, "par')
    with pytest.raises(StoreError, match=r"00001\.json: is not JSON"):
        journal.load()


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    journal = Journal(Store(tmp_path), "s")
    journal.put(trial(0))
    journal.close()
    (tmp_path / "s/trials/note.txt").write_text("mine")
    assert len(journal.load()) == 1


def test_closing_ends_the_thread_and_closing_nothing_is_fine(tmp_path: Path) -> None:
    Journal(Store(tmp_path), "s").close()
    journal = Journal(Store(tmp_path), "s")
    journal.put(trial(0))
    journal.close()
    assert journal._thread is not None and not journal._thread.is_alive()


def test_a_thousand_trials_are_loaded_in_a_moment(tmp_path: Path) -> None:
    folder = tmp_path / "s/trials"
    folder.mkdir(parents=True)
    history = [{"epoch": n, "val/top1": 0.1, "loss/total": 2.0, "seconds": 1.0} for n in range(1, 21)]
    for number in range(1000):
        (folder / f"{number:05d}.json").write_text(json.dumps(trial(number) | {"history": history}))
    started = time.perf_counter()
    trials = Journal(Store(tmp_path), "s").load()
    assert time.perf_counter() - started < 20
    assert [each["number"] for each in trials] == list(range(1000))
