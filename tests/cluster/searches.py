"""What the tests of searches share: a tiny experiment of one short student, and what a search left in its store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdray.experiment.merge import merge
from kdray.store import Store
from tests.cluster.command import BIN, Process, running
from tests.cluster.conftest import Place

FATE = {"type": "own:Fate", "weight": 1}


def searched(place: Place, search: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Changes to the tiny experiment that make a search of it; objective `fate` does what a trial is told to."""
    plain: dict[str, Any] = {
        "objectives": {"clmkd.class_guided": None, "fate": FATE | {"folder": str(place.folder)}},
        "cluster": {"cpus_per_worker": None},
        "search": search,
    }
    return merge(plain, changes)


def trials(store: Path | str) -> dict[int, dict[str, Any]]:
    """The journal of the one search in `store`, by number."""
    place = Store(str(store))
    folders = [f"runs/{run.rstrip('/')}/search/trials" for run in place.list("runs")]
    found = [place.read_json(f"{folder}/{name}") for folder in folders for name in place.list(folder)]
    return {trial["number"]: trial for trial in found}


def states(store: Path | str) -> dict[int, str]:
    """The state of every trial."""
    return {number: trial["state"] for number, trial in trials(store).items()}


def run_record(store: Path | str) -> dict[str, Any]:
    """The record of the one run in `store`."""
    place = Store(str(store))
    (run,) = place.list("runs")
    found: dict[str, Any] = place.read_json(f"runs/{run.rstrip('/')}/record.json")
    return found


def run_several(place: Place, commands: list[list[str]], env: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Run `commands` in one process, as `tests.cluster.several` does; what came of each, and its output in the log."""
    file, out = place.folder / f"commands-{place.count}.json", place.folder / f"done-{place.count}.json"
    file.write_text(json.dumps(commands))
    arguments = [BIN / "python", "-m", "tests.cluster.several", file, out]
    with running(Process(arguments, place.folder, place.env | (env or {}), file.with_suffix(".log"))) as process:
        assert process.wait() == 0, process.output
        found: list[dict[str, Any]] = json.loads(out.read_text())
        print(process.output)
    place.count += 1
    return found
