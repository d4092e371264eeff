"""A run killed by SIGKILL and started again ends with the same weights, bit for bit, as one that was not."""

from __future__ import annotations

import signal

import pytest

from kdray.experiment.merge import merge
from tests.cluster.command import gone, running
from tests.cluster.conftest import (
    STEPS_PER_EPOCH,
    STUDENTS,
    TROUBLE,
    Place,
    References,
    artifact,
    record,
    same_bits,
    tensors,
)

KILLED = -signal.SIGKILL


@pytest.mark.parametrize("mode", ["stream", "resident"])
def test_process_killed_at_any_step(mode: str, alone: Place, references: References) -> None:
    """Before the first checkpoint, in the first step of an epoch and in the middle of one."""
    steps = [3, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH + 7]
    references.lend_teacher("batchnorm", alone.runs)
    trouble = TROUBLE | {"folder": str(alone.folder), "die_at": steps}
    changes = {"data": {"mode": mode}, "objectives": {"trouble": trouble}, "cluster": {"workers": 0}}
    experiment = alone.write(**merge(STUDENTS["batchnorm"], changes))
    for step in steps:
        output = alone.run(experiment, code=KILLED)
        assert (alone.folder / f"died-{step}").exists(), output
    alone.run(experiment)
    done = record(alone.runs)
    assert STEPS_PER_EPOCH < done["resumed_from"] <= steps[-1]
    assert same_bits(tensors(alone.runs), tensors(references.runs("batchnorm", 1))) == []


@pytest.mark.parametrize(("mode", "kind", "victim"), [("stream", "groupnorm", 1), ("resident", "batchnorm", 0)])
def test_worker_killed_then_command_killed(
    mode: str, kind: str, victim: int, joined: Place, references: References
) -> None:
    """A worker dies in epoch 2 and the run recovers by itself; the command dies in epoch 3 and is run again."""
    references.lend_teacher(kind, joined.runs)
    killed, held = STEPS_PER_EPOCH + 5, 2 * STEPS_PER_EPOCH + 6
    trouble = TROUBLE | {"folder": str(joined.folder), "slow_from": held, "rank": victim, "die_at": [killed]}
    changes = {"data": {"mode": mode}, "objectives": {"trouble": trouble}, "cluster": {"workers": 2}}
    experiment = joined.write(**merge(STUDENTS[kind], changes))
    slow = joined.folder / "slow"
    with running(joined.start(experiment)) as command:
        command.wait_for(lambda: slow.exists() and slow.read_text(), "the last epoch")
        assert (joined.folder / f"died-{killed}").exists()
        assert f"worker {victim} died" in command.output
        command.signal(signal.SIGKILL)
    # Started again at once, as a user would: what is left of the first run must not be in the way.
    with running(joined.start(experiment)) as command:
        assert gone(int(slow.read_text())), "a worker outlived its command"
        (joined.folder / "go").touch()
        assert command.wait() == 0, command.output
        assert "goes on from step" in command.output
    done = record(joined.runs)
    assert 2 * STEPS_PER_EPOCH < done["resumed_from"] <= held + 8
    assert done["test"]["images"] == 359
    assert same_bits(tensors(joined.runs), tensors(references.runs(kind, 2))) == []
    left = [at.name for at in artifact(joined.runs).iterdir() if at.name.startswith(("ray", "checkpoints"))]
    assert left == [], "what only a running stage needs"


def test_command_interrupted_then_killed(joined: Place, references: References) -> None:
    """Ctrl-C reaches the command alone: it tells its worker, which saves the state. The rest as above, streaming."""
    references.lend_teacher("groupnorm", joined.runs)
    trouble = TROUBLE | {"folder": str(joined.folder), "slow_from": STEPS_PER_EPOCH + 3}
    experiment = joined.write(
        **merge(STUDENTS["groupnorm"], {"data": {"mode": "stream"}, "objectives": {"trouble": trouble}})
    )
    with running(joined.start(experiment)) as command:
        command.wait_for((joined.folder / "slow").exists, "the slow steps")
        command.wait_for(lambda: "epoch 1/3" in command.output, "progress, which comes while the run goes on")
        command.signal(signal.SIGINT)
        assert command.wait() == 130, command.output
        (said,) = [line for line in command.output.splitlines() if line.startswith("kdray: ")]
        assert "Traceback (" not in command.output, command.output
    stopped = int(said.removeprefix("kdray: stopped at step ").split(",")[0])
    assert stopped >= STEPS_PER_EPOCH + 3
    with running(joined.start(experiment)) as command:
        command.wait_for(lambda: f"goes on from step {stopped}" in command.output, "the resumed run")
        later = f"artifacts/student-*/checkpoints/step-*{(stopped // 4 + 1) * 4}.pt"
        command.wait_for(lambda: list(joined.runs.glob(later)), "the next checkpoint")
        command.signal(signal.SIGKILL)
    (joined.folder / "go").touch()
    joined.run(experiment)
    assert record(joined.runs)["resumed_from"] > stopped
    assert same_bits(tensors(joined.runs), tensors(references.runs("groupnorm", 1))) == []
