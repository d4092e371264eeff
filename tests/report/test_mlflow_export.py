"""A search in MLflow, in a real database of its own; and what is said where MLflow is not installed."""

from __future__ import annotations

import copy
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from kdray.errors import ConfigError, StoreError
from kdray.report import mlflow_export
from kdray.report.mlflow_export import check_mlflow, export_mlflow
from tests.report.searches import facts, search, trial

RECORD = {"name": "cifar", "run_id": "cifar-0011aabb", "uri": "s3://bucket/runs/runs/cifar-0011aabb/record.json"}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database that the tests of this file share: to make one takes seconds."""
    found = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    check_mlflow(found)
    return found


def record(name: str) -> dict[str, Any]:
    return RECORD | {"name": name, "run_id": f"{name}-0011aabb"}


def small() -> dict[str, Any]:
    parameters = {"method": "kd", "objectives.kd.weight": 0.25, "layers": [1, 2]}
    return facts(
        [
            trial(0, "done", [0.25, 0.5, 0.375], parameters=parameters),
            trial(1, "running", [0.125]),
            trial(2, "failed", error="DataError: it 'broke'"),
            trial(3, "waiting"),
        ],
        importance={"method": 0.75},
    )


def client_of(uri: str) -> Any:
    """Imported as kdray does it, which first says that nothing is to be sent home."""
    return mlflow_export._client(uri)


def runs(uri: str, name: str) -> dict[str, Any]:
    client = client_of(uri)
    found = client.search_runs([client.get_experiment_by_name(name).experiment_id], max_results=1000)
    by_trial = {run.data.tags["kdray.trial"]: run for run in found}
    assert len(by_trial) == len(found)  # none twice
    return by_trial


def test_one_run_for_the_search_and_one_for_each_trial(uri: str) -> None:
    parent = export_mlflow(small(), record("one"), uri)
    found = runs(uri, "one")
    assert sorted(found) == ["0", "1", "2", "search"]
    whole, first = found["search"], found["0"]
    assert whole.info.run_id == parent and whole.info.run_name == "one-0011aabb" and whole.info.status == "RUNNING"
    assert whole.data.metrics == {"best/val/top1": 0.5, "importance/method": 0.75}
    assert whole.data.tags["kdray.best"] == "0" and whole.data.tags["kdray.record"] == RECORD["uri"]
    assert {run.data.tags["mlflow.parentRunId"] for number, run in found.items() if number != "search"} == {parent}
    assert first.data.params == {"method": "kd", "objectives.kd.weight": "0.25", "layers": "[1, 2]"}
    assert first.data.metrics["best/val/top1"] == 0.5 and first.data.metrics["val/top1"] == 0.375
    assert {number: run.info.status for number, run in found.items() if number != "search"} == {
        "0": "FINISHED",
        "1": "RUNNING",
        "2": "FAILED",
    }
    assert found["2"].data.tags["kdray.error"] == "DataError: it 'broke'"
    assert (first.info.end_time - first.info.start_time) / 1000 == 33
    history = client_of(uri).get_metric_history(first.info.run_id, "val/top1")
    assert [(point.step, point.value) for point in history] == [(1, 0.25), (2, 0.5), (3, 0.375)]
    assert history[1].timestamp - first.info.start_time == 20_000


def test_again_sends_only_what_is_new(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    some, about = small(), record("again")
    parent = export_mlflow(some, about, uri)
    logged: list[str] = []
    from mlflow import MlflowClient

    real = MlflowClient.log_batch
    monkeypatch.setattr(
        MlflowClient, "log_batch", lambda self, run, **parts: (logged.append(run), real(self, run, **parts))[1]
    )
    assert export_mlflow(some, about, uri) == parent
    assert set(logged) == {parent}
    went_on = copy.deepcopy(some)
    went_on["trials"][1] = trial(1, "stopped", [0.125, 0.75])
    went_on["trials"][3] = trial(3, "done", [0.5])
    went_on |= {"best": 1}
    assert export_mlflow(went_on, about, uri) == parent
    found = runs(uri, "again")
    assert sorted(found) == ["0", "1", "2", "3", "search"]
    assert found["1"].info.status == "FINISHED" and found["1"].data.tags["kdray.state"] == "stopped"
    history = client_of(uri).get_metric_history(found["1"].info.run_id, "val/top1")
    assert [(point.step, point.value) for point in history] == [(1, 0.125), (2, 0.75)]
    assert found["search"].data.metrics["best/val/top1"] == 0.75 and found["search"].info.status == "FINISHED"


def test_an_export_that_broke_off_is_made_whole(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    real = MlflowClient.set_terminated

    def breaks(*_: Any, **__: Any) -> None:
        raise ConnectionError("gone\nfor now")

    monkeypatch.setattr(MlflowClient, "set_terminated", breaks)
    with pytest.raises(StoreError, match="MLflow did not take the trials: gone") as caught:
        export_mlflow(small(), record("broken"), uri)
    assert "again" in str(caught.value.fix)
    monkeypatch.setattr(MlflowClient, "set_terminated", real)
    export_mlflow(small(), record("broken"), uri)
    assert {n: run.info.status for n, run in runs(uri, "broken").items()}["0"] == "FINISHED"


def test_parameters_that_changed_become_tags(uri: str) -> None:
    some = facts([trial(0, "running", [0.5], parameters={"lr": 0.1})])
    export_mlflow(some, record("pbt"), uri)
    some["trials"][0] = trial(0, "running", [0.5, 0.6], parameters={"lr": 0.2})
    export_mlflow(some, record("pbt"), uri)
    run = runs(uri, "pbt")["0"]
    assert run.data.params == {"lr": "0.1"} and run.data.tags["kdray.now.lr"] == "0.2"


def test_a_path_whose_parts_have_dots_is_a_parameter(uri: str) -> None:
    quoted = 'objectives."clmkd.class_guided".weight'
    some = facts([trial(0, "done", [0.5], parameters={quoted: 0.25})], importance={quoted: 1.0})
    export_mlflow(some, record("quoted"), uri)
    found = runs(uri, "quoted")
    assert found["0"].data.params == {"objectives.clmkd.class_guided.weight": "0.25"}
    assert found["search"].data.metrics["importance/objectives.clmkd.class_guided.weight"] == 1.0


def test_after_a_proxy_the_winner_is_that_of_the_whole_experiment(uri: str) -> None:
    some = facts([trial(0, "done", [0.5]), trial(1, "done", [0.25])])
    some |= {"best": 1, "transfer": {"trials": [trial(0, "done", [0.25]), trial(1, "done", [0.75])]}}
    export_mlflow(some, record("proxy"), uri)
    found = runs(uri, "proxy")
    assert sorted(found) == ["0", "1", "full 0", "full 1", "search"]
    assert found["search"].data.metrics["best/val/top1"] == found["full 1"].data.metrics["best/val/top1"] == 0.75
    assert found["1"].data.metrics["best/val/top1"] == 0.25


def test_two_searches_of_a_name_are_kept_apart(uri: str) -> None:
    first = export_mlflow(small(), record("same"), uri)
    second = export_mlflow(small(), record("same") | {"run_id": "same-ffff"}, uri)
    client = client_of(uri)
    found = client.search_runs([client.get_experiment_by_name("same").experiment_id])
    assert first != second and len(found) == 8


def test_every_value_of_a_larger_search_arrives(uri: str) -> None:
    some = search(12)
    export_mlflow(some, record("larger"), uri)
    found = runs(uri, "larger")
    for each in some["trials"]:
        assert found[str(each["number"])].data.metrics.get("best/val/top1") == each["value"]


def test_a_folder_of_files_works_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    folder = (tmp_path / "mlruns").as_uri()
    check_mlflow(folder)
    export_mlflow(small(), record("files"), folder)
    assert sorted(runs(folder, "files")) == ["0", "1", "2", "search"]


def test_without_mlflow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as Python itself has it for what cannot be imported
    for call in (lambda: check_mlflow("http://localhost:5000"), lambda: export_mlflow(small(), RECORD, "sqlite:///x")):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value) == (
            "search.mlflow: mlflow is not installed. pip install mlflow (mlflow-skinny is enough), "
            "or leave search.mlflow out"
        )


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("mlruns", "'mlruns' is no tracking URI"),
        ("http://me:secret@host:5000", "keys stand in the URI"),
        ("gopher://host", "MLflow"),
    ],
)
def test_a_wrong_uri_is_refused(wrong: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_mlflow(wrong)
    assert caught.value.where == "search.mlflow" and said in caught.value.problem and caught.value.fix
    assert "secret" not in str(caught.value)


def test_where_nobody_answers_it_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound but not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match=r"no MLflow answers at http://127\.0\.0\.1"):
            check_mlflow(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert mlflow_export.CONNECT_S <= 10
