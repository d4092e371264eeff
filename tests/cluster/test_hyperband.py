"""Hyperband, whose trials pause: one fails in a bracket, Ctrl-C comes while another is paused, and all of it ends."""

from __future__ import annotations

import signal
import time

from tests.cluster.command import running
from tests.cluster.conftest import Place
from tests.cluster.searches import searched, states, trials

FATES = ["plain-0", "plain-1", "raise", "plain-3", "hold", "plain-5", "plain-6", "plain-7"]
FAILS, PAUSED, HELD = 2, 3, 4
HEARD_S = 2.0  # ten times what it takes until all trials know that they are to stop
SEARCH = {
    "space": {"objectives.fate.fate": FATES},
    "searcher": "grid",
    "scheduler": {"type": "hyperband", "reduction": 3},
    "metric": "val/nll",
}


def test_brackets_that_fail_and_stop_and_go_on(joined: Place) -> None:
    """Three epochs, by three: two trials whole, then three of which one goes on after its first epoch."""
    early = {"kd": None, "fate": {"at": 5}}
    two = {"cpus_per_worker": 2}  # of the four that there are
    experiment = joined.write(**searched(joined, SEARCH, teacher=None, objectives=early, cluster=two))
    with running(joined.start(experiment)) as command:
        command.wait_for(
            lambda: (joined.folder / "hold").exists() and trials(joined.runs)[PAUSED]["epochs"] == 1,
            "a trial that waits in its bracket for one that is held",
        )
        command.signal(signal.SIGINT)
        time.sleep(HEARD_S)
        (joined.folder / "go").touch()
        assert command.wait() == 130, command.output
    before = trials(joined.runs)
    assert [before[number]["state"] for number in (0, 1, FAILS)] == ["done", "done", "failed"]
    assert [before[number]["state"] for number in (PAUSED, HELD)] == ["waiting", "waiting"]
    joined.run(experiment)

    after = trials(joined.runs)
    assert {number: after[number] for number in (0, 1, FAILS)} == {number: before[number] for number in (0, 1, FAILS)}
    # What was left fills the first bracket, and trains to its end; what comes after it may be cut after an epoch.
    assert [after[number]["state"] for number in (PAUSED, HELD)] == ["done", "done"]
    assert after[PAUSED]["started"] == before[PAUSED]["started"]
    last = {number: state for number, state in states(joined.runs).items() if number > HELD}
    assert set(last) == {5, 6, 7} and set(last.values()) <= {"done", "stopped"} and "done" in last.values()
    for number, state in last.items():
        assert (after[number]["epochs"] == 3) is (state == "done")
