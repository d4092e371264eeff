"""A search in MLflow: one run for the search, one run nested in it for each trial.

mlflow is not among kdray's dependencies: it is asked for only where `search.mlflow` names a tracking URI.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from kdray.errors import ConfigError, KdrayError, StoreError
from kdray.report.search_table import best_of
from kdray.report.trial_text import ENDED, usable, value_text
from kdray.store.place import holds_keys, without_keys

WHERE = "search.mlflow"
SEARCH, TRIAL, EXPORTED = "kdray.search", "kdray.trial", "kdray.exported"  # tags by which runs are found again
WHOLE = "search"  # what stands in TRIAL for the search itself
IN_FULL = "full "  # before the number, for trials that a proxy's search ran on the whole experiment
REFUSED = re.compile(r"[^/\w.\- :]")  # what MLflow takes in no name
BATCH = 1000  # metrics that MLflow takes at a time
CONNECT_S = 10.0
STATUS = {"done": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}


def check_mlflow(uri: str) -> None:
    """See before a search that its trials can be sent to `uri`.

    Raises:
        ConfigError: mlflow is not installed, keys stand in the URI, or nothing answers there.
    """
    if "://" not in uri:
        raise ConfigError(
            f"{uri!r} is no tracking URI", where=WHERE, fix="Write sqlite:///path/to/mlflow.db or http://host:5000"
        )
    if holds_keys(uri):
        fix = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, instead"
        raise ConfigError("keys stand in the URI", where=WHERE, fix=fix)
    client = _client(uri)
    _check_answers(uri)
    try:
        client.search_experiments(max_results=1)
    except Exception as exc:
        first = str(exc).strip().partition("\n")[0]
        raise ConfigError(f"MLflow at {uri} cannot be used: {first}", where=WHERE, fix="Check the URI") from exc


def export_mlflow(search: dict[str, Any], record: dict[str, Any], uri: str) -> str:
    """Bring MLflow at `uri` to what the search's facts say; return the id of the search's run.

    The MLflow experiment has the record's name. Each trial that began is a run: parameters, metrics by epoch, its value
    as `best/METRIC`, its state as the tag `kdray.state`; after a search on a proxy, so is each that ran in full. Runs
    are found again by their tags, and only what is new is sent: it may be called while a search runs, when it went on,
    and again.

    Raises:
        ConfigError: mlflow is not installed.
        StoreError: MLflow does not take it.
    """
    with _explaining(uri):
        export = _Export(_client(uri), search, record)
        parent = export.parent()
        for label, trial in _labelled(search):
            if trial["state"] != "waiting":
                export.trial(label, trial, parent.info.run_id)
        export.close(parent)
        return str(parent.info.run_id)


def _labelled(search: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for trial in search["trials"]:
        yield str(trial["number"]), trial
    for trial in (search.get("transfer") or {}).get("trials") or ():
        yield f"{IN_FULL}{trial['number']}", trial


def _name(name: str) -> str:
    """`name` as MLflow takes it: without the quotes of a path's parts."""
    return REFUSED.sub("", name)


def _client(uri: str) -> Any:
    # Kdray sends nothing to anybody unasked; and who writes file:// has asked for what MLflow no longer likes.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if uri.startswith("file:"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        from mlflow import MlflowClient
    except ModuleNotFoundError as exc:
        fix = "pip install mlflow (mlflow-skinny is enough), or leave search.mlflow out"
        raise ConfigError("mlflow is not installed", where=WHERE, fix=fix) from exc
    try:
        return MlflowClient(tracking_uri=uri)
    except Exception as exc:
        raise ConfigError(
            f"MLflow does not know {uri}", where=WHERE, fix="Write sqlite:///path/to/mlflow.db or http://host:5000"
        ) from exc


def _check_answers(uri: str) -> None:
    """Raise ConfigError when no server listens: MLflow itself would try again for minutes."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), CONNECT_S).close()
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"no MLflow answers at {uri}: {exc}", where=WHERE, fix="Start it (mlflow server), or check the URI"
        ) from exc


@contextlib.contextmanager
def _explaining(uri: str) -> Iterator[None]:
    try:
        yield
    except KdrayError:
        raise
    except Exception as exc:
        first = str(exc).strip().partition("\n")[0]
        fix = "The search itself is whole; the same command again sends what is missing"
        raise StoreError(f"MLflow did not take the trials: {first}", where=without_keys(uri), fix=fix) from exc


class _Export:
    """One bringing up to date: what MLflow has is read once, so it costs the same for each trial at any number."""

    def __init__(self, client: Any, search: dict[str, Any], record: dict[str, Any]) -> None:
        self.client = client
        self.search = search
        self.record = record
        self.experiment = self._experiment()
        self.known = self._known()

    def parent(self) -> Any:
        """The search's run."""
        return self.known.get(WHOLE) or self.client.create_run(
            self.experiment,
            start_time=min(
                (_ms(trial["started"]) for trial in self.search["trials"] if trial["started"]), default=None
            ),
            run_name=self.record["run_id"],
            tags={SEARCH: self.record["run_id"], TRIAL: WHOLE},
        )

    def trial(self, label: str, trial: dict[str, Any], parent: str) -> None:
        """Send what is new of one trial."""
        run = self.known.get(label)
        began = _ms(trial["started"]) if trial["started"] else 0
        if run is None:
            run = self.client.create_run(
                self.experiment,
                start_time=began,
                run_name=f"trial {label}",
                tags={SEARCH: self.record["run_id"], TRIAL: label, "mlflow.parentRunId": parent},
            )
        now = f"{trial['state']} {trial['epochs']} {trial['attempts']}"
        tags = run.data.tags
        if tags.get(EXPORTED) == now:
            return
        self._log(
            run,
            _metrics(self.search, trial, began, after=int(tags.get("kdray.epochs", 0))),
            {_name(name): value_text(value) for name, value in trial["parameters"].items()},
            {"kdray.state": trial["state"], "kdray.artifact": trial["artifact"], "kdray.epochs": str(trial["epochs"])}
            | ({"kdray.error": trial["error"]} if trial["error"] else {}),
        )
        if trial["state"] in ENDED:
            finished = _ms(trial["finished"]) if trial["finished"] else None
            self.client.set_terminated(run.info.run_id, STATUS[trial["state"]], finished)
        # Last: an export that broke off is made again.
        self.client.set_tag(run.info.run_id, EXPORTED, now)

    def close(self, parent: Any) -> None:
        """Say what came out of the search in its run."""
        search = self.search
        tags = {
            "kdray.record": self.record["uri"],
            "kdray.metric": search["metric"],
            "kdray.mode": search["mode"],
            "kdray.searcher": value_text(search["searcher"]),
            "kdray.scheduler": value_text(search["scheduler"]),
            "kdray.trials": f"{len(search['trials'])} of {search['wanted']}",
        }
        values = {f"importance/{_name(name)}": float(x) for name, x in (search["importance"] or {}).items()}
        if search["best"] is not None:
            best = best_of(search)
            tags["kdray.best"] = str(best["number"])
            values[f"best/{search['metric']}"] = best["value"]
        ends = [trial["state"] in ENDED for trial in search["trials"]]
        moment = max((_ms(trial["finished"]) for trial in search["trials"] if trial["finished"]), default=0)
        self._log(parent, [(name, value, moment, sum(ends)) for name, value in values.items()], {}, tags)
        if all(ends):
            self.client.set_terminated(parent.info.run_id, "FINISHED", moment or None)

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.record["name"])
        return str(found.experiment_id if found is not None else self.client.create_experiment(self.record["name"]))

    def _known(self) -> dict[str, Any]:
        """The runs of this search by number."""
        runs: dict[str, Any] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment],
                filter_string=f"tags.`{SEARCH}` = '{self.record['run_id']}'",
                max_results=1000,
                page_token=token,
            )
            runs |= {run.data.tags[TRIAL]: run for run in page}
            token = page.token
            if not token:
                return runs

    def _log(
        self, run: Any, metrics: list[tuple[str, float, int, int]], params: dict[str, str], tags: dict[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        # Parameters never change in MLflow, those of population based training do: what differs becomes a tag.
        new = {name: text for name, text in params.items() if name not in run.data.params}
        tags = tags | {f"kdray.now.{n}": text for n, text in params.items() if run.data.params.get(n, text) != text}
        run_id = run.info.run_id
        self.client.log_batch(
            run_id, params=[Param(*pair) for pair in new.items()], tags=[RunTag(*pair) for pair in tags.items()]
        )
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=[Metric(*one) for one in metrics[start : start + BATCH]])


def _metrics(
    search: dict[str, Any], trial: dict[str, Any], began: int, after: int
) -> list[tuple[str, float, int, int]]:
    """(name, value, ms since 1970, epoch) of all numbers of the epochs later than `after`, and the trial's value."""
    found, spent_s = [], 0.0
    for row in trial["history"]:
        spent_s += row.get("seconds") or 0.0
        if row["epoch"] > after:
            numbers = {k: v for k, v in row.items() if k != "epoch" and isinstance(v, int | float) and math.isfinite(v)}
            found += [
                (_name(name), float(v), began + int(1000 * spent_s), int(row["epoch"])) for name, v in numbers.items()
            ]
    if usable(trial["value"]):
        step = trial["best_epoch"] or trial["epochs"]
        found.append((f"best/{search['metric']}", trial["value"], began + int(1000 * spent_s), step))
    return found


def _ms(moment: str) -> int:
    return int(1000 * datetime.datetime.fromisoformat(moment).timestamp())
