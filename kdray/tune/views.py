"""Who shows the trials of a search: what the sweep needs of it, and one that shows nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from kdray.tune.trials import Trial


class TrialView(Protocol):
    """Who shows the trials."""

    def update(self, trial: Trial) -> None:
        """A trial changed."""

    def warning(self, text: str) -> None:
        """Something to be told to the user."""


ViewMaker = Callable[[str, str, int | None, int], AbstractContextManager[TrialView]]
"""Makes the view of trials from metric, mode, wanted trials and the most epochs of one."""


class Silent:
    """Shows nothing."""

    def update(self, trial: Trial) -> None: ...

    def warning(self, text: str) -> None: ...


@contextlib.contextmanager
def silent(metric: str, mode: str, wanted: int | None, max_epochs: int) -> Iterator[TrialView]:
    """A view for those who do not look."""
    yield Silent()
