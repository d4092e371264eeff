"""Ctrl-C and SIGTERM on the real process: the first saves and stops, the second stops at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import kdray
from tests.tiny import Lab, tree_of

# An objective that stands still in its fourth step until it may go on, so that a signal comes when it should.
GATE = """
import time
from pathlib import Path
from kdray.objectives import LOSS, Objective, ObjectiveConfig


class Gate(Objective):
    config, provenance, family, source = ObjectiveConfig, "paper", "test", "a test"

    def forward(self, targets, student, teacher, student_head, teacher_head, step):
        if step.step == 3:
            print("waiting", flush=True)
            for _ in range(1200):
                if Path("go").exists():
                    break
                time.sleep(0.1)
        return {LOSS: student.logits.mean()}
"""

GATED = {
    "teacher": None,
    "objectives": {"ce": {}, "kd": None, "gate": {"type": "gates:Gate"}},
    "data": {"validation": 0},
    "train": {"epochs": 3, "log_every": 2},
}


@pytest.fixture
def gate(lab: Lab) -> Path:
    """The file that lets runs pass; it is not there yet."""
    (lab.folder / "gates.py").write_text(GATE)
    return lab.folder / "go"


def start(lab: Lab, path: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {
        "PYTHONPATH": str(Path(kdray.__file__).parents[1]),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "kdray.run", str(path), *arguments],
        cwd=lab.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the command ended without {text!r}: {process.stderr.read() if process.stderr else ''}")


def weights(record: dict[str, Any]) -> bytes:
    return (Path(record["stages"][-1]["artifact"]) / "last.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_to_the_same_weights(lab: Lab, gate: Path, number: signal.Signals) -> None:
    process = start(lab, lab.write(GATED))
    wait_for_line(process, "waiting")
    process.send_signal(number)
    wait_for_line(process, f"{number.name}: saving the state and stopping")
    gate.touch()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert err == "kdray: stopped at step 4, state saved. The same command goes on from there\n"
    (run,) = (lab.store / "runs").iterdir()
    stopped = json.loads((run / "record.json").read_text())
    assert (stopped["status"], stopped["finished"]) == ("interrupted", None)
    (artifact,) = (lab.store / "artifacts").iterdir()
    assert os.listdir(artifact / "checkpoints") == ["step-000000004.pt"] and not (artifact / "record.json").exists()

    done = lab.run(changes=GATED)
    again = lab.record(done)
    stage = again["stages"][0]
    assert "goes on from step 4" in done.out
    assert (stage["resumed_from"], stage["steps"]) == (4, 6)
    # The wall time is that of both processes, and it says so.
    assert stage["wall_s"] > stage["earlier_s"] > 0
    assert "of an interrupted process, whose time is in its wall time" in done.out

    whole = lab.done(changes=GATED | {"storage": str(lab.folder / "whole")})
    assert whole["stages"][0]["resumed_from"] == 0 == whole["stages"][0]["earlier_s"]
    assert weights(again) == weights(whole)
    assert stage["test"] == whole["stages"][0]["test"]


def test_the_second_signal_stops_at_once(lab: Lab, gate: Path) -> None:
    process = start(lab, lab.write(GATED))
    wait_for_line(process, "waiting")
    process.send_signal(signal.SIGTERM)
    wait_for_line(process, "once more: stop at once")
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - began < 30 and not gate.exists()  # it would stand there for two minutes
    assert err == "kdray: stopped at once; the same command goes on from what is saved\n"


def test_a_stop_between_stages_is_kept_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdray.train.worker import StageWorker

    run = StageWorker.run
    began: list[str] = []

    def stopped_at_the_end(self: StageWorker) -> dict[str, Any]:
        began.append(self.stage.name)
        record = run(self)
        os.kill(os.getpid(), signal.SIGINT)  # when nothing looks for it any more
        return record

    monkeypatch.setattr(StageWorker, "run", stopped_at_the_end)
    said = lab.run().error(130)
    assert said == "stopped before stage student distilled. The same command goes on from there"
    assert began == ["teacher"]
    before = tree_of(lab.store / "artifacts")
    monkeypatch.setattr(StageWorker, "run", run)
    record = lab.done()
    assert [stage["reused"] for stage in record["stages"]] == [True, False]
    assert before.items() <= tree_of(lab.store / "artifacts").items()


def test_a_stopped_fresh_run_says_how_to_go_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdray.errors import Interrupted

    def stopped(self: object) -> None:
        raise Interrupted("stopped at step 1, state saved", fix="The same command goes on from there")

    monkeypatch.setattr("kdray.train.worker.StageWorker.run", stopped)
    assert lab.run("--fresh").error(130).endswith("The same command without --fresh goes on from there")
