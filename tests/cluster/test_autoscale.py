"""A sweep on a cluster that has no node yet: it grows as far as it may, works on all of it, and shrinks again."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from tests.cluster.autoscaling import growing_cluster
from tests.cluster.command import BIN, running
from tests.cluster.conftest import Place, make_place
from tests.cluster.searches import searched, states, trials

IDLE_S = 6.0
SEARCH = {"space": {"objectives.fate.fate": [f"two-nodes-{n}" for n in range(4)]}, "searcher": "grid"}
# Nodes beside the head that are alive, as a command of its own: this process joins no cluster.
COUNT = "import ray; ray.init(log_to_driver=False); print('nodes', sum(n['Alive'] for n in ray.nodes()) - 1)"


def nodes_beside_the_head(place: Place) -> int:
    done = subprocess.run([BIN / "python", "-c", COUNT], env=place.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_sweep_makes_a_cluster_grow_and_lets_it_shrink(
    tmp_path: Path, clean_env: dict[str, str], short: Path, data: Path
) -> None:
    with growing_cluster(clean_env, short / "grows", cpus=1, nodes=2, idle_s=IDLE_S) as head:
        place = make_place(tmp_path / "joined", clean_env | head.joined, data)
        changes = {"teacher": None, "objectives": {"kd": None}, "train": {"epochs": 2}}
        experiment = place.write(**searched(place, SEARCH, **changes))
        # More than any node has: nothing ever starts, and Ctrl-C ends it all the same.
        with running(place.start(experiment, "--set", "cluster.cpus_per_worker=2", "--set", "storage=none")) as command:
            command.wait_for(lambda: states(place.folder / "none"), "a trial that waits for a place")
            command.signal(signal.SIGINT)
            assert command.wait() == 130, command.output
            assert "stopped with 0 of 4 trials ended" in command.output
        assert nodes_beside_the_head(place) == 0

        place.run(experiment)
        found = list(trials(place.runs).values())
        assert [trial["state"] for trial in found] == 4 * ["done"]
        # The first one waited until another ran on another node.
        assert len(list(place.folder.glob("node-*"))) == 2
        deadline = time.monotonic() + 180
        while nodes_beside_the_head(place) and time.monotonic() < deadline:
            time.sleep(1)
        assert nodes_beside_the_head(place) == 0
