"""A run goes on with another number of workers: at the same sample of the same global order, to the same weights."""

from __future__ import annotations

import signal

from kdray.experiment.merge import merge
from tests.cluster.command import gone, running
from tests.cluster.conftest import (
    STEPS_PER_EPOCH,
    STUDENTS,
    TROUBLE,
    Place,
    References,
    artifact,
    assert_last_close,
    record,
    tensors,
)


def test_two_workers_then_one_then_two(joined: Place, references: References) -> None:
    """Killed in the middle of epoch 2 and of epoch 3. Group norm, so that sums are all that the number changes; what
    another sample at any step would change is far beyond that.
    """
    references.lend_teacher("groupnorm", joined.runs)
    slow_from = STEPS_PER_EPOCH + 6
    trouble = TROUBLE | {"folder": str(joined.folder), "slow_from": slow_from}
    experiment = joined.write(
        **merge(STUDENTS["groupnorm"], {"data": {"mode": "stream"}, "objectives": {"trouble": trouble}})
    )
    slow = joined.folder / "slow"

    def saved(from_step: int, to_step: int) -> list[int]:
        """Steps of the checkpoints there are, between these."""
        found = joined.runs.glob("artifacts/student-*/checkpoints/step-*.pt")
        return [step for step in (int(path.stem.split("-")[1]) for path in found) if from_step <= step < to_step]

    held = [slow_from, 2 * STEPS_PER_EPOCH + 3]
    for workers, step in zip((2, 1), held, strict=True):
        with running(joined.start(experiment, "--set", f"cluster.workers={workers}")) as command:
            end = (step // STEPS_PER_EPOCH + 1) * STEPS_PER_EPOCH
            command.wait_for(lambda step=step, end=end: saved(step, end), "a checkpoint in the middle of an epoch")
            if workers == 1:
                assert "goes on from step" in command.output
            command.signal(signal.SIGKILL)
        assert gone(int(slow.read_text())), "a worker outlived its command"
        slow.unlink()  # the next round's worker writes its own
    (joined.folder / "go").touch()
    joined.run(experiment, "--set", "cluster.workers=2")
    done = record(joined.runs)
    assert held[1] <= done["resumed_from"] < 3 * STEPS_PER_EPOCH and done["resumed_from"] % STEPS_PER_EPOCH
    assert done["world_size"] == 2 and len(done["history"]) == 3
    assert len(list(joined.runs.glob("artifacts/student-*"))) == 1, f"another run: {artifact(joined.runs)}"
    assert_last_close(tensors(joined.runs), tensors(references.runs("groupnorm", 1)))
