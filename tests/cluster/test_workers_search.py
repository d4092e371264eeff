"""Trials of two workers each: Ray Train runs that the scheduler ends, and that leave nothing on the cluster."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cluster.command import BIN, Process, running
from tests.cluster.conftest import Place
from tests.cluster.searches import searched, trials

SEARCH = {
    "space": {"objectives.fate.fate": ["plain", "bad", "raise"]},
    "searcher": "grid",
    "scheduler": {"type": "asha", "grace_epochs": 1, "reduction": 2},
    "metric": "val/nll",
    "concurrent": 1,
}
FREE = """
import time, ray
ray.init(address="auto", log_to_driver=False)
until = time.monotonic() + 60
while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"] and time.monotonic() < until:
    time.sleep(0.2)
print("free:", ray.available_resources().get("CPU"), "of", ray.cluster_resources()["CPU"])
"""


def test_trials_of_two_workers(joined: Place) -> None:
    changes = {"teacher": None, "objectives": {"kd": None}, "train": {"epochs": 2}}
    two = {"cluster": {"workers": 2, "cpus_per_worker": 0.5, "max_failures": 0}}
    joined.run(joined.write(**searched(joined, SEARCH, **changes, **two)))
    found = trials(joined.runs)
    assert [found[number]["state"] for number in range(3)] == ["done", "stopped", "failed"]
    whole = json.loads((Path(found[0]["artifact"]) / "record.json").read_text())
    assert whole["world_size"] == 2 and found[0]["accelerators"] == 2
    assert found[0]["value"] == min(row["val/nll"] for row in whole["history"])
    assert [row["epoch"] for row in found[1]["history"]] == [1]
    assert "FloatingPointError: fate at step 20" in found[2]["error"]
    assert "own.py" in (Path(found[2]["artifact"]) / "traceback.txt").read_text()
    ask = Process([BIN / "python", "-c", FREE], joined.folder, joined.env, joined.folder / "free.log")
    with running(ask) as command:
        assert command.wait() == 0, command.output
        assert "free: 4.0 of 4.0" in command.output
