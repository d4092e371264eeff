"""Which trial comes next, for Ray Tune: what an earlier command left unfinished first, then what the sampler asks."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ray.tune.search import Searcher

from kdray.tune.trials import Trial


class Sampler(Protocol):
    """Where new points come from."""

    def ask(self, number: int) -> Trial | None:
        """A new trial of this number; None where there are no more."""

    def tell(self, trial: Trial) -> None:
        """Learn how a trial ended, in this command or in an earlier one."""

    def resume(self, trial: Trial) -> None:
        """Know of a trial that an earlier command left unfinished, and that goes on."""


class Suggest(Searcher):
    """Gives Ray Tune trials until `wanted` are there, at most `concurrent` at a time, or what `room` says by now.

    `unfinished` goes on first. `on_new` is told of every trial that begins here. `stopping` says that no more is to
    begin.
    """

    room: Callable[[], int] | None = None

    def __init__(
        self,
        sampler: Sampler,
        known: int,
        unfinished: Iterable[Trial],
        wanted: int | None,
        concurrent: int,
        on_new: Callable[[str, Trial], None],
        stopping: Callable[[], bool],
    ) -> None:
        super().__init__(metric="objective", mode="max")
        self._sampler = sampler
        self._next = known
        self._unfinished = deque(unfinished)
        self._wanted = wanted
        self._concurrent = concurrent
        self._on_new = on_new
        self._stopping = stopping
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial: its number, and as text (which Ray Tune leaves alone) its changes."""
        if self._stopping():
            return Searcher.FINISHED
        if self.full():
            return None
        if self._unfinished:
            trial = self._unfinished.popleft()
        else:
            if self._wanted is not None and self._next >= self._wanted:
                return Searcher.FINISHED
            new = self._sampler.ask(self._next)
            if new is None:
                return Searcher.FINISHED
            trial, self._next = new, self._next + 1
        self._live.add(trial_id)
        self._on_new(trial_id, trial)
        return {"number": trial["number"], "changes": json.dumps(trial["changes"])}

    def full(self) -> bool:
        """Whether there is room for no other trial now."""
        return len(self._live) >= (self._concurrent if self.room is None else self.room())

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """A place is free. What the trial came to is told to the sampler by who keeps the journal."""
        self._live.discard(trial_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return Searcher, ()  # for Ray Tune's own state, which nobody reads

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal remembers."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal remembers."""


class Given:
    """Asks for nothing: all trials are known."""

    def ask(self, number: int) -> Trial | None:
        return None

    def tell(self, trial: Trial) -> None: ...

    def resume(self, trial: Trial) -> None: ...
