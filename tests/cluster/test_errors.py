"""What goes wrong in a worker comes out as one line, and is tried again only where that can help."""

from __future__ import annotations

import signal
from pathlib import Path

from kdray.data.digits import digit_samples
from kdray.data.shards import write_shards
from kdray.data.writer import Sample
from tests.cluster.command import running
from tests.cluster.conftest import TROUBLE, Place

# A student alone: one stage, one start of Ray Train.
ALONE = {"teacher": None, "objectives": {"kd": None, "clmkd.class_guided": None}}


def said(output: str) -> str:
    """The one line in which the command says what went wrong; there is no traceback of anything."""
    assert "Traceback (most recent call last)" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("kdray: ")]
    return line


def test_loss_that_is_not_finite_is_not_retried(joined: Place) -> None:
    trouble = TROUBLE | {"folder": str(joined.folder), "nan_at": 10}
    experiment = joined.write(**ALONE | {"objectives": ALONE["objectives"] | {"trouble": trouble}})
    output = joined.run(experiment, code=1)
    assert "the loss is not finite at step 10: trouble" in said(output)
    assert "The last good checkpoint is" in said(output) and "step-00000000" in said(output)
    assert "warning" not in output


def test_bad_data_is_not_retried(joined: Place) -> None:
    """Images that do not decode are found by data actors, two processes away from the command."""
    samples = [s if i % 10 else Sample(b"no image", s.label, s.id) for i, s in enumerate(digit_samples("test"), 1)]
    write_shards(samples, str(joined.folder / "bad"))
    data = {"source": None, "train": "bad", "mode": "stream", "limit": None, "validation": 0}
    output = joined.run(joined.write(**ALONE, data=data), code=2)
    assert "do not decode" in said(output) and "bad" in said(output)
    assert "warning" not in output


def test_exception_that_comes_again_stops_the_run(joined: Place) -> None:
    trouble = TROUBLE | {"folder": str(joined.folder), "raise_always_at": 9}
    experiment = joined.write(**ALONE | {"objectives": ALONE["objectives"] | {"trouble": trouble}})
    output = joined.run(experiment, code=1)
    assert "failed again in the same way, ValueError: always trouble at step 9 (at step 9) in worker 0" in said(output)
    assert output.count("going on from the last checkpoint") == 1
    trace = Path(said(output).split("Traceback: ")[1].split(";")[0]).read_text()
    assert 'own.py", line' in trace and "always trouble at step 9" in trace


def test_failures_are_counted(joined: Place) -> None:
    trouble = TROUBLE | {"folder": str(joined.folder), "raise_at": [5, 9, 13], "rank": 1}
    changes = {"objectives": ALONE["objectives"] | {"trouble": trouble}, "cluster": {"max_failures": 1, "workers": 2}}
    experiment = joined.write(**ALONE | changes)
    output = joined.run(experiment, code=1)
    assert "failed 2 times, the last time with ValueError: trouble at step 9 (at step 9) in worker 1" in said(output)
    assert not (joined.folder / "raised-13").exists()


def test_more_than_this_machine_holds(alone: Place) -> None:
    output = alone.run(alone.write(**ALONE, cluster={"workers": 2, "cpus_per_worker": 1000}), code=2)
    assert "2 workers x 1000 CPU do not fit on" in said(output)


def test_joined_cluster_that_is_too_small_says_what_it_waits_for(joined: Place) -> None:
    """It may grow, so the run waits; Ctrl-C ends the waiting."""
    experiment = joined.write(**ALONE, data={"mode": "stream"}, cluster={"workers": 4, "cpus_per_worker": 1})
    with running(joined.start(experiment)) as command:
        command.wait_for(lambda: "waiting for the cluster to grow" in command.output, "word of what is missing")
        assert "4 workers x 1 CPU + 1 CPU for data do not fit on 4 CPUs" in command.output
        command.signal(signal.SIGINT)
        assert command.wait() == 130, command.output
        assert "stopped before a worker had started" in said(command.output)
