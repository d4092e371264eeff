"""A search on a proxy: some of its trials in full, more of them later, and all of it sent to MLflow afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdray.report.mlflow_export import _client
from tests.cluster.conftest import Place
from tests.cluster.searches import run_record, run_several, searched

SEARCH = {
    "space": {"train.optimizer.lr": [0.0001, 0.002, 0.05, 0.1], "objectives.fate.fate": ["plain-1"]},
    "searcher": "grid",
    "metric": "val/nll",
    "concurrent": 2,
    "transfer": {"set": {"train.epochs": 1, "data.limit": 240}, "check": 2},
}


def full(store: Path) -> dict[int, dict[str, Any]]:
    """The trials that ran in full, by number."""
    return {trial["number"]: trial for trial in run_record(store)["search"]["transfer"]["trials"]}


def test_a_proxy_and_then_more_in_full_and_mlflow(joined: Place) -> None:
    kd = {"clmkd.class_guided": None, "kd": {"weight": 0.5}}
    changes = {"teacher": {"model": "resnet8", "params": {"width": 0.25}, "train": {"epochs": 1}}}
    experiment = str(joined.write(**searched(joined, SEARCH, train={"epochs": 2}, **changes, objectives=kd)))
    (done,) = run_several(joined, [[experiment]])
    assert done["code"] == 0
    first, search = full(joined.runs), run_record(joined.runs)["search"]
    assert len(search["trials"]) == 4 and {trial["epochs"] for trial in search["trials"]} == {1}
    assert len(first) == 2 and {trial["epochs"] for trial in first.values()} == {2}
    ranked = sorted(search["trials"], key=lambda trial: trial["value"])
    assert ranked[0]["number"] in first, "the best of the proxy did not run in full"
    assert search["best"] == min(first, key=lambda number: first[number]["value"])
    assert search["transfer"]["spearman"] is None and "too few" in search["transfer"]["words"]

    # More in full: what ran stays as it is, and nothing of the proxy runs again. Then only MLflow is new.
    mlflow = f"sqlite:///{joined.folder}/mlflow.db"
    more = [experiment, "--set", "search.transfer.check=3"]
    commands = [more, [*more, "--set", f"search.mlflow={mlflow}"]]
    assert [each["code"] for each in run_several(joined, commands)] == [0, 0]
    then, after = full(joined.runs), run_record(joined.runs)["search"]
    assert len(then) in (3, 4) and {number: then[number] for number in first} == first
    assert [trial["value"] for trial in after["trials"]] == [trial["value"] for trial in search["trials"]]
    assert after["transfer"]["check"] == 3 and after["transfer"]["spearman"] is not None
    assert after["best"] == min(then, key=lambda number: then[number]["value"])
    client = _client(mlflow)
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    sent = {run.data.tags["kdray.trial"]: run for run in runs}
    assert set(sent) == {"search", *map(str, range(4)), *(f"full {number}" for number in then)}
    assert sent["search"].info.run_id == after["mlflow"]
    assert sent["search"].data.metrics["best/val/nll"] == then[after["best"]]["value"]
