"""A search whose trials fail, die and are stopped, and whose command is killed: nothing is lost or done twice."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from tests.cluster.command import gone, running
from tests.cluster.conftest import STEPS_PER_EPOCH, Place, same_bits
from tests.cluster.searches import run_record, run_several, searched, states, trials

FATES = ["hold", "die", "raise", "plain-3", "bad", "plain-5", "plain-6", "plain-7"]
HOLD, DIE, RAISE, PLAIN, BAD = range(5)
SEARCH = {
    "space": {"objectives.fate.fate": FATES},
    "searcher": "grid",
    "trials": 6,
    "scheduler": {"type": "asha", "grace_epochs": 2, "reduction": 2},
    "metric": "val/nll",
    "concurrent": 2,
}


def weights(artifact: str) -> dict[str, torch.Tensor]:
    found = {file.stem: load_file(file) for file in Path(artifact).glob("*.safetensors")}
    return {f"{stem}/{key}": value for stem, tensors in found.items() for key, value in tensors.items()}


def record_of(artifact: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(artifact) / "record.json").read_text())
    return found


def test_search_of_trials_with_a_fate(joined: Place) -> None:
    """Six trials, two at a time. The first waits for us, so that the command dies while it is under way."""
    experiment = joined.write(**searched(joined, SEARCH))
    with running(joined.start(experiment)) as command:
        wanted = {DIE: "done", RAISE: "failed", PLAIN: "done"}
        command.wait_for(
            lambda: (found := states(joined.runs)).items() >= wanted.items() and found[HOLD] == "running",
            "three trials that ended beside one that does not",
        )
        command.signal(signal.SIGKILL)
    assert gone(int((joined.folder / "hold").read_text())), "a trial outlived its command"
    before = trials(joined.runs)
    (teacher,) = (joined.runs / "artifacts").glob("teacher-*/record.json")
    taught = teacher.read_bytes()
    assert [before[number]["attempts"] for number in (HOLD, DIE, RAISE, PLAIN)] == [1, 2, 1, 1]
    (joined.folder / "go").touch()
    joined.run(experiment)

    after = trials(joined.runs)
    ended = [number for number, trial in before.items() if trial["state"] in ("done", "stopped", "failed")]
    assert [after[number] for number in ended] == [before[number] for number in ended], "an ended trial ran again"
    assert {number: trial["state"] for number, trial in after.items()} == {
        HOLD: "done", DIE: "done", RAISE: "failed", PLAIN: "done", BAD: "stopped", 5: "done",
    }  # fmt: skip
    for number in (HOLD, DIE):
        assert after[number]["attempts"] == 2
        assert STEPS_PER_EPOCH <= record_of(after[number]["artifact"])["resumed_from"] <= 20
    assert after[HOLD]["started"] == before[HOLD]["started"]
    failed = after[RAISE]
    assert failed["error"].startswith("FloatingPointError: fate at step 20") and failed["epochs"] == 1
    assert "own.py" in (Path(failed["artifact"]) / "traceback.txt").read_text()
    stopped = after[BAD]
    assert [row["epoch"] for row in stopped["history"]] == [1, 2]
    assert not list(Path(stopped["artifact"]).glob("checkpoints/*")), "what nobody goes on with"
    for number in (HOLD, DIE, PLAIN, 5):
        trial, whole = after[number], record_of(after[number]["artifact"])
        assert [row["epoch"] for row in trial["history"]] == [1, 2, 3]
        reached = [row["val/nll"] for row in whole["history"]]
        assert trial["value"] == min(reached) and trial["best_epoch"] == reached.index(min(reached)) + 1
        # The same training in all of them: what died or waited ends with the same bits.
        assert same_bits(weights(trial["artifact"]), weights(after[PLAIN]["artifact"])) == []
    assert teacher.read_bytes() == taught and len(list((joined.runs / "artifacts").glob("teacher-*"))) == 1
    run = run_record(joined.runs)
    assert run["status"] == "done" and run["search"]["best"] == HOLD
    assert [trial["state"] for trial in run["search"]["trials"]] == [after[n]["state"] for n in range(6)]

    # Once more: nothing is left to do, and no cluster is needed for it.
    output = joined.run(experiment, env={"RAY_ADDRESS": "127.0.0.1:1"})
    assert "reused" in output and trials(joined.runs) == after

    # Two trials more, and the winner alone in another store.
    (best,) = joined.runs.glob("runs/*/best.yaml")
    assert yaml.safe_load(best.read_text())["cluster"]["cpus_per_worker"] == 1
    other = joined.folder / "other"
    done = run_several(
        joined, [[str(experiment), "--set", "search.trials=8"], [str(best), "--set", f"storage={other}"]]
    )
    assert [each["code"] for each in done] == [0, 0]
    more = trials(joined.runs)
    assert [more.pop(number)["state"] for number in (6, 7)] == ["done", "done"] and more == after
    (alone,) = other.glob("artifacts/student-*")
    won = after[HOLD]["artifact"]
    assert same_bits(weights(str(alone)), weights(won)) == []
    mine, its = record_of(str(alone)), record_of(won)
    assert [mine[key] for key in ("test", "test_best", "best_epoch")] == [
        its[key] for key in ("test", "test_best", "best_epoch")
    ]
    columns = ("val/top1", "val/nll", "loss/total")
    for one, two in zip(mine["history"], its["history"], strict=True):
        assert [one[name] for name in columns] == [two[name] for name in columns]
