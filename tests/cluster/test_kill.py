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


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("mode", "kind"), [("stream", "groupnorm"), ("resident", "batchnorm")])
def test_worker_killed_then_command_killed(
    mode: str, kind: str, workers: int, joined: Place, references: References
) -> None:
    """A worker dies in epoch 2 and the run recovers by itself; the command dies in epoch 3 and is run again."""
    references.lend_teacher(kind, joined.runs)
    killed, held = STEPS_PER_EPOCH + 5, 2 * STEPS_PER_EPOCH + 6
    victim = workers - 1 if mode == "stream" else 0
    trouble = TROUBLE | {"folder": str(joined.folder), "rank": victim, "die_at": [killed], "slow_from": held}
    changes = {"data": {"mode": mode}, "objectives": {"trouble": trouble}, "cluster": {"workers": workers}}
    experiment = joined.write(**merge(STUDENTS[kind], changes))
    slow = joined.folder / "slow"
    with running(joined.start(experiment)) as command:
        command.wait_for(lambda: slow.exists() and slow.read_text(), "the last epoch")
        assert (joined.folder / f"died-{killed}").exists()
        command.wait_for(lambda: f"worker {victim} died" in command.output, "word of the lost worker")
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
    assert same_bits(tensors(joined.runs), tensors(references.runs(kind, workers))) == []
