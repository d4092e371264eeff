"""Population based training with its store on S3, stopped by Ctrl-C in the middle: it goes on, and its winner's whole
way can be gone again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
import yaml

from kdray.run import main
from kdray.store import Store
from tests.cluster.command import running
from tests.cluster.conftest import STEPS_PER_EPOCH, Place
from tests.cluster.searches import FATE, run_record, searched, trials
from tests.conftest import S3

SEARCH = {
    "space": {"train.optimizer.lr": "loguniform(0.0005, 0.005)"},
    "trials": 4,
    "searcher": {"type": "random", "seed": 6},  # two rates far above two others, and both of these then go higher still
    "scheduler": {"type": "pbt", "every_epochs": 2, "quantile": 0.5, "resample": 0},
    "metric": "loss/total",
    "concurrent": 2,
}


def test_population_on_s3_interrupted(joined: Place, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    store = s3.uri("cluster/population")
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    slow = FATE | {"folder": str(joined.folder), "fate": "slow", "at": 2 * STEPS_PER_EPOCH + 4}
    changes = {"teacher": None, "storage": store, "train": {"epochs": 4}}
    experiment = joined.write(**searched(joined, SEARCH, **changes, objectives={"kd": None, "fate": slow}))
    with running(joined.start(experiment, env=aws)) as command:
        command.wait_for((joined.folder / "slow").exists, "the second generation")
        command.signal(signal.SIGINT)
        assert command.wait() == 130, command.output
        assert "stopped with 0 of 4 trials ended, the state of the others saved" in command.output
    before = trials(store)
    assert {trial["state"] for trial in before.values()} == {"waiting"}
    assert {trial["epochs"] for trial in before.values()} == {2}
    (joined.folder / "go").touch()
    joined.run(experiment, env=aws)

    after = trials(store)
    assert {trial["state"] for trial in after.values()} == {"done"}
    children = [number for number, trial in after.items() if trial["lineage"][-1]["from"] is not None]
    assert len(children) == 2
    for number, trial in after.items():
        assert trial["started"] == before[number]["started"]
        assert trial["lineage"] == before[number]["lineage"], "exploited once more"
        assert [row["epoch"] for row in trial["history"]] == [1, 2, 3, 4]
        for epoch, row in enumerate(trial["history"]):
            holds = [turn for turn in trial["lineage"] if turn["from_epoch"] <= epoch][-1]
            assert row["lr"] <= holds["parameters"]["train.optimizer.lr"] * 1.0001
    for number in children:
        donor = after[after[number]["lineage"][-1]["from"]]
        assert after[number]["history"][:2] == donor["history"][:2]

    # The winner as a plain experiment, in one process and in another store.
    run = run_record(store)
    won = after[run["search"]["best"]]
    assert won["number"] in children and won["best_epoch"] == 4
    best = joined.folder / "best.yaml"
    best.write_text(Store(store).read_bytes(f"runs/{run['run_id']}/best.yaml").decode())
    (phase,) = yaml.safe_load(best.read_text())["phases"]
    assert phase == {"from_epoch": 2, "set": won["lineage"][-1]["changes"]}
    monkeypatch.chdir(joined.folder)
    monkeypatch.syspath_prepend(joined.folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main([str(best), "--set", "storage=alone", "--set", "cluster.workers=0"]) == 0
    finally:
        torch.set_num_threads(threads)
    (alone,) = Path("alone/artifacts").glob("student-*/record.json")
    mine = Store("alone").read_json(str(alone).removeprefix("alone/"))
    its = Store(won["artifact"]).read_json("record.json")
    columns = ("loss/total", "val/nll", "val/top1", "lr")
    for one, two in zip(mine["history"], its["history"], strict=True):
        assert [one[name] for name in columns] == [two[name] for name in columns]
    assert [mine[name] for name in ("test", "test_best")] == [its[name] for name in ("test", "test_best")]
