"""What Ray Tune is given: the unfinished first, so many at a time, until there are no more."""

from __future__ import annotations

import json
import pickle
from typing import Any

from ray.tune.search import Searcher

from kdray.tune.suggest import Given, Suggest
from kdray.tune.trials import Trial, new_trial


class Asked(Given):
    """`count` points, and which were asked for."""

    def __init__(self, count: int = 1000) -> None:
        self.count = count
        self.numbers: list[int] = []

    def ask(self, number: int) -> Trial | None:
        if number >= self.count:
            return None
        self.numbers.append(number)
        return new_trial(number, {"x": number}, {"train.optimizer.lr": number / 10})


class Begun(list[tuple[str, int]]):
    def __call__(self, trial_id: str, trial: Trial) -> None:
        self.append((trial_id, trial["number"]))


def suggest(sampler: Any = None, **changes: Any) -> Suggest:
    given: dict[str, Any] = {
        "known": 0,
        "unfinished": [],
        "wanted": None,
        "concurrent": 100,
        "on_new": Begun(),
        "stopping": lambda: False,
    }
    return Suggest(sampler or Asked(), **{**given, **changes})


def number_of(config: Any) -> Any:
    return config["number"] if isinstance(config, dict) else config


def test_what_was_left_unfinished_goes_on_first() -> None:
    begun, sampler = Begun(), Asked()
    left = [new_trial(2, {}, {"seed": 2}), new_trial(0, {}, {})]
    given = suggest(sampler, known=4, unfinished=left, on_new=begun)
    assert [number_of(given.suggest(name)) for name in "abcd"] == [2, 0, 4, 5]
    assert begun == [("a", 2), ("b", 0), ("c", 4), ("d", 5)]
    assert sampler.numbers == [4, 5]


def test_a_configuration_is_a_number_and_text() -> None:
    config = suggest(unfinished=[new_trial(2, {}, {"seed": 2, "objectives.rkd": None})], known=3).suggest("a")
    assert set(config) == {"number", "changes"}
    assert json.loads(config["changes"]) == {"seed": 2, "objectives.rkd": None}


def test_so_many_at_a_time() -> None:
    given = suggest(concurrent=2)
    assert number_of(given.suggest("a")) == 0
    assert number_of(given.suggest("b")) == 1
    assert given.suggest("c") is None  # asked again later
    given.on_trial_complete("a", error=True)
    assert number_of(given.suggest("c")) == 2
    assert given.suggest("d") is None
    given.on_trial_complete("b")
    given.on_trial_complete("b")  # twice makes no second place
    assert number_of(given.suggest("d")) == 3
    assert given.suggest("e") is None


def test_until_so_many_are_there() -> None:
    given = suggest(known=3, wanted=5)
    assert [number_of(given.suggest(name)) for name in "abc"] == [3, 4, Searcher.FINISHED]
    # Fewer wanted than there are: what was begun is ended, and nothing begins.
    left = suggest(known=3, wanted=2, unfinished=[new_trial(1, {}, {})])
    assert [number_of(left.suggest(name)) for name in "ab"] == [1, Searcher.FINISHED]


def test_until_the_sampler_has_no_more() -> None:
    given = suggest(Asked(2))
    assert [number_of(given.suggest(name)) for name in "abc"] == [0, 1, Searcher.FINISHED]
    # Of trials that are all given none is asked for.
    all_given = suggest(Given(), known=2, unfinished=[new_trial(1, {}, {})])
    assert [number_of(all_given.suggest(name)) for name in "ab"] == [1, Searcher.FINISHED]


def test_what_a_cluster_has_room_for_may_change() -> None:
    room = [1]
    given = suggest(concurrent=5)
    given.room = lambda: room[0]
    assert number_of(given.suggest("a")) == 0
    assert given.suggest("b") is None
    room[0] = 2
    assert number_of(given.suggest("b")) == 1
    assert given.suggest("c") is None


def test_a_full_place_comes_before_the_end() -> None:
    given = suggest(wanted=1, concurrent=1)
    assert number_of(given.suggest("a")) == 0
    assert given.suggest("b") is None
    given.on_trial_complete("a")
    assert given.suggest("b") == Searcher.FINISHED


def test_nothing_begins_once_it_is_stopping() -> None:
    stop: list[int] = []
    begun, sampler = Begun(), Asked()
    given = suggest(
        sampler, unfinished=[new_trial(7, {}, {}), new_trial(8, {}, {})], on_new=begun, stopping=lambda: bool(stop)
    )
    assert number_of(given.suggest("a")) == 7
    stop.append(1)
    assert given.suggest("b") == Searcher.FINISHED
    assert begun == [("a", 7)] and sampler.numbers == []


def test_ray_tunes_own_state_holds_nothing_of_it() -> None:
    given = suggest(on_new=lambda *_: None)  # which no pickle takes
    assert type(pickle.loads(pickle.dumps(given))) is Searcher
