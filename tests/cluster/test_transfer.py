"""A search on a proxy: some of its trials in full, more of them later, and all of it sent to MLflow afterwards."""

from __future__ import annotations

from kdray.report.mlflow_export import _client
from tests.cluster.conftest import Place
from tests.cluster.searches import run_record, run_several, searched

SEARCH = {
    "space": {"train.optimizer.lr": [0.0001, 0.002, 0.05, 0.1], "objectives.fate.fate": ["plain-1"]},
    "searcher": "grid",
    "metric": "val/nll",
    "concurrent": 1,
    "transfer": {"set": {"train.epochs": 1, "data.limit": 240}, "check": 2},
}


def test_a_proxy_and_then_more_in_full_and_mlflow(joined: Place) -> None:
    kd = {"clmkd.class_guided": None, "kd": {"weight": 0.5}}
    changes = {"teacher": {"model": "resnet8", "params": {"width": 0.25}, "train": {"epochs": 1}}}
    experiment = str(joined.write(**searched(joined, SEARCH, train={"epochs": 2}, **changes, objectives=kd)))
    more, mlflow = [experiment, "--set", "search.transfer.check=3"], f"sqlite:///{joined.folder}/mlflow.db"
    # More in full: what ran stays as it is, and nothing of the proxy runs again. Then only MLflow is new.
    commands = [[experiment], more, [*more, "--set", f"search.mlflow={mlflow}"]]
    assert [each["code"] for each in run_several(joined, commands)] == [0, 0, 0]
    search = run_record(joined.runs)["search"]
    proxy, full = search["trials"], {trial["number"]: trial for trial in search["transfer"]["trials"]}
    assert [trial["attempts"] for trial in [*proxy, *full.values()]] == [1] * (4 + len(full)), "something ran again"
    assert {trial["epochs"] for trial in proxy} == {1} and {trial["epochs"] for trial in full.values()} == {2}
    assert len(proxy) == 4 and len(full) in (3, 4)
    best_first = sorted(proxy, key=lambda trial: trial["value"])
    assert {trial["number"] for trial in best_first[:2]} <= set(full), "the best of the proxy did not run in full"
    assert search["best"] == min(full, key=lambda number: full[number]["value"])
    assert search["transfer"]["check"] == 3 and -1 <= search["transfer"]["spearman"] <= 1
    client = _client(mlflow)
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    sent = {run.data.tags["kdray.trial"]: run for run in runs}
    assert set(sent) == {"search", *map(str, range(4)), *(f"full {number}" for number in full)}
    assert sent["search"].info.run_id == search["mlflow"]
    assert sent["search"].data.metrics["best/val/nll"] == full[search["best"]]["value"]
