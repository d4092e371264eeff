"""What tests of the pipeline share: which stages really ran, and that none does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kdray.train.worker import StageWorker


@pytest.fixture
def took(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Names of the stages that really ran since it was called last, by the kind of what they made."""
    names: list[str] = []
    run = StageWorker.run

    def watched(self: StageWorker) -> dict[str, Any]:
        names.append(self.stage.name)
        return run(self)

    def since() -> list[str]:
        last = list(names)
        names.clear()
        return last

    monkeypatch.setattr(StageWorker, "run", watched)
    return since


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that starts fails the test."""
    monkeypatch.setattr(StageWorker, "run", lambda self: pytest.fail("a stage was started"))
