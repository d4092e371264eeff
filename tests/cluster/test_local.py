"""The cluster that a command starts on this machine: kept to the machine, and gone with the command."""

from __future__ import annotations

import os
import signal
import time

import ray  # noqa: F401  (brings psutil along)

from kdray.experiment.merge import merge
from tests.cluster.command import Process, running
from tests.cluster.conftest import STUDENTS, TROUBLE, Place, References, assert_last_close, record, tensors


def listening(pids: list[int]) -> dict[str, str]:
    """Address -> process of every socket on which one of `pids` waits for connections."""
    import psutil

    found = {}
    for pid in pids:
        try:
            process = psutil.Process(pid)
            for socket in process.net_connections("inet"):
                if socket.status == psutil.CONN_LISTEN:
                    found[f"{socket.laddr.ip}:{socket.laddr.port}"] = " ".join(process.cmdline())[:100]
        except psutil.NoSuchProcess:
            continue
    return found


def nothing_left(command: Process, timeout_s: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while command.descendants():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def test_interrupted_run_on_a_cluster_of_its_own(alone: Place, references: References) -> None:
    """Ctrl-C as a terminal sends it, to the servers and workers too: the state is saved, then everything ends."""
    references.lend_teacher("groupnorm", alone.runs)
    trouble = TROUBLE | {"folder": str(alone.folder), "slow_from": 19}
    changes = {"objectives": {"trouble": trouble}, "cluster": {"workers": 2, "cpus_per_worker": 0.5}}
    experiment = alone.write(**merge(STUDENTS["groupnorm"], changes))
    with running(alone.start(experiment)) as command:
        command.wait_for((alone.folder / "slow").exists, "the slow steps")
        servers = listening([command.pid, *command.descendants()])
        assert any("gcs_server" in process for process in servers.values()), servers
        assert any("raylet" in process for process in servers.values()), servers
        exposed = {at: who for at, who in servers.items() if not at.startswith(("127.0.0.1:", "::1:", "::ffff:127."))}
        assert exposed == {}
        assert "epoch 1/3" in command.output, "progress comes while the run goes on"
        os.killpg(command.pid, signal.SIGINT)
        assert command.wait() == 130, command.output
        assert "Traceback (" not in command.output, command.output
        assert nothing_left(command), "a process outlived the command"
        said = [line for line in command.output.splitlines() if line.startswith("kdray: stopped at step")]
        assert len(said) == 1, command.output
    # Another number of workers goes on from there: one process, without Ray.
    alone.run(experiment, "--set", "cluster.workers=0")
    done = record(alone.runs)
    assert done["resumed_from"] == int(said[0].split("step ")[1].split(",")[0]) >= 19
    assert_last_close(tensors(alone.runs), tensors(references.runs("groupnorm", 1)))


def test_bad_input_leaves_no_half_started_cluster(alone: Place) -> None:
    """The checks fail while Ray starts beside them."""
    experiment = alone.write(student={"model": "resnet9"})
    with running(alone.start(experiment)) as command:
        assert command.wait() == 2, command.output
        assert "did you mean 'resnet8'" in command.output
        assert "Traceback (" not in command.output, command.output
        assert nothing_left(command), "a process outlived the command"
