"""Ctrl-C and SIGTERM on the real process: the first saves and stops, the second stops at once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import kdray
from tests.tiny import Lab, tree_of

LONG = {
    "teacher": None,
    "objectives": {"ce": {}, "kd": None},
    "data": {"limit": None, "validation": 0},
    "train": {"epochs": 3, "log_every": 2},
}

# An objective that says when it is in a step, and stays there.
STUCK = """
import sys, time
from kdray.objectives import LOSS, Objective, ObjectiveConfig


class Stuck(Objective):
    config, provenance, family, source = ObjectiveConfig, "paper", "test", "a test"

    def forward(self, targets, student, teacher, student_head, teacher_head, step):
        if step.step == 3:
            print("asleep", flush=True)
            time.sleep(120)
        return {LOSS: student.logits.mean()}
"""


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
def test_a_stopped_run_goes_on_to_the_same_weights(lab: Lab, number: signal.Signals) -> None:
    whole = lab.done(changes=LONG | {"storage": str(lab.folder / "whole")})
    process = start(lab, lab.write(LONG))
    wait_for_line(process, "epoch 1/3")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert f"{number.name}: saving the state and stopping" in out
    assert re.fullmatch(r"kdray: stopped at step \d+, state saved\. The same command goes on from there\n", err), err
    (run,) = (lab.store / "runs").iterdir()
    stopped = json.loads((run / "record.json").read_text())
    assert (stopped["status"], stopped["finished"]) == ("interrupted", None)
    (artifact,) = (lab.store / "artifacts").iterdir()
    assert os.listdir(artifact / "checkpoints") and not (artifact / "record.json").exists()

    done = lab.run(changes=LONG)
    again = lab.record(done)
    stage = again["stages"][0]
    assert f"goes on from step {stage['resumed_from']}" in done.out
    assert 0 < stage["resumed_from"] < stage["steps"] == whole["stages"][0]["steps"]
    assert weights(again) == weights(whole)
    assert stage["test"] == whole["stages"][0]["test"]
    # The wall time is that of both processes, and it says so.
    assert stage["wall_s"] > stage["earlier_s"] > 0
    assert "of an interrupted process, whose time is in its wall time" in done.out


def test_the_second_signal_stops_at_once(lab: Lab) -> None:
    (lab.folder / "never.py").write_text(STUCK)
    path = lab.write(LONG | {"objectives": {"ce": {}, "kd": None, "stuck": {"type": "never:Stuck"}}})
    process = start(lab, path)
    wait_for_line(process, "asleep")
    process.send_signal(signal.SIGTERM)
    wait_for_line(process, "once more: stop at once")
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - began < 30  # it would sleep for two minutes
    assert err == "kdray: stopped at once; the same command goes on from the last checkpoint\n"


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
