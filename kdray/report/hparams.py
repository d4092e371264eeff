"""Trials of a search for TensorBoard's HPARAMS tab: tensorboard --logdir FOLDER

Each trial is a run with its parameters, its metrics by epoch and `best/METRIC`, the value it is judged by; the
run above them says what the columns are. Files are made whole in memory: object stores do not append.
"""

from __future__ import annotations

import datetime
import io
import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from kdray.report.trial_text import ENDED, short_names, usable
from kdray.store import Store
from kdray.tune.distribution import Choices, Span, distribution, is_number

FILE = "events.out.tfevents.0.kdray"
WRITERS = 8
STATUS = {
    "done": api_pb2.STATUS_SUCCESS,
    "stopped": api_pb2.STATUS_SUCCESS,
    "failed": api_pb2.STATUS_FAILURE,
}
Column = Span | Choices


def write_hparams(store: Store, folder: str, search: dict[str, Any]) -> str:
    """Write the runs of all trials that began, and what the columns are, below `folder`; return the folder's URI.

    One file per trial, `folder/0007/events...`, and one for the search.
    """
    columns = parameter_columns(search)

    def write(trial: dict[str, Any]) -> None:
        store.write_bytes(f"{folder}/{trial['number']:04d}/{FILE}", trial_events(search, trial, columns))

    begun = [trial for trial in search["trials"] if trial["state"] != "waiting"]
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="kdray-hparams") as pool:
        list(pool.map(write, begun))  # a file is waiting for the disk or the network; list: errors come out
    store.write_bytes(f"{folder}/{FILE}", search_events(search, columns))
    return store.path_uri(folder)


def parameter_columns(search: dict[str, Any]) -> dict[str, Column]:
    """The range or the choices of each parameter that some trial has, in the space's order."""
    seen: dict[str, list[Any]] = {}
    for trial in search["trials"]:
        for name, value in trial["parameters"].items():
            seen.setdefault(name, []).append(value)
    place = {name: number for number, name in enumerate(search["space"])}
    names = sorted(seen, key=lambda name: place.get(name, len(place)))
    return {name: distribution(search["space"].get(name), seen[name]) for name in names}


def search_events(search: dict[str, Any], columns: dict[str, Column]) -> bytes:
    """An event file that says what the columns are: parameters with their domains, and metrics."""
    short = short_names(columns)
    infos = []
    for name, column in columns.items():
        info = api_pb2.HParamInfo(
            name=name, display_name=short[name], description=search["space"].get(name, ""), type=_type(column)
        )
        if isinstance(column, Span):
            info.domain_interval.min_value = column.low
            info.domain_interval.max_value = column.high
        else:
            info.domain_discrete.extend([_cell(json.loads(text), column) for text in column.texts])
        infos.append(info)
    metrics = [f"best/{search['metric']}", *_metrics(search)]
    experiment = api_pb2.Experiment(
        description=f"{search['mode']} {search['metric']}",
        time_created_secs=min(_starts(search), default=0.0),
        hparam_infos=infos,
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=tag) for tag in metrics],
    )
    data = HParamsPluginData(experiment=experiment)
    return _file([(experiment.time_created_secs, 0, _plugin(metadata.EXPERIMENT_TAG, data))])


def trial_events(search: dict[str, Any], trial: dict[str, Any], columns: dict[str, Column]) -> bytes:
    """The event file of one trial."""
    began = _seconds(trial["started"]) if trial["started"] else 0.0
    start = SessionStartInfo(group_name=f"{trial['number']:04d}", start_time_secs=began, model_uri=trial["artifact"])
    for name, value in trial["parameters"].items():
        cell = _cell(value, columns[name])
        if isinstance(cell, bool):
            start.hparams[name].bool_value = cell
        elif isinstance(cell, str):
            start.hparams[name].string_value = cell
        else:
            start.hparams[name].number_value = cell
    events = [(began, 0, _plugin(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)))]
    now = began
    for row in trial["history"]:
        now += row.get("seconds") or 0.0
        values = [Summary.Value(tag=key, simple_value=row[key]) for key in row if key != "epoch" and _finite(row[key])]
        events.append((now, int(row["epoch"]), Summary(value=values)))
    if usable(trial["value"]):
        best = Summary.Value(tag=f"best/{search['metric']}", simple_value=trial["value"])
        events.append((now, trial["best_epoch"] or trial["epochs"], Summary(value=[best])))
    if trial["state"] in ENDED:
        finished = _seconds(trial["finished"]) if trial["finished"] else now
        end = SessionEndInfo(status=STATUS[trial["state"]], end_time_secs=finished)
        events.append((finished, 0, _plugin(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))))
    return _file(events)


def _metrics(search: dict[str, Any]) -> list[str]:
    """What is compared besides: the metric of the last epoch, other validation metrics, losses."""
    keys = {key for trial in search["trials"] if trial["history"] for key in trial["history"][-1]}
    others = sorted(key for key in keys if key.startswith(("val/", "loss/")) and key != search["metric"])
    return [search["metric"], *others]


def _type(column: Column) -> int:
    if isinstance(column, Span):
        return api_pb2.DATA_TYPE_FLOAT64
    values = [json.loads(text) for text in column.texts]
    if all(isinstance(value, bool) for value in values):
        return api_pb2.DATA_TYPE_BOOL
    return api_pb2.DATA_TYPE_FLOAT64 if all(map(is_number, values)) else api_pb2.DATA_TYPE_STRING


def _cell(value: Any, column: Column) -> Any:
    """`value` as its column holds it: number, truth value, or text when its choices are of several kinds."""
    if _type(column) != api_pb2.DATA_TYPE_STRING:
        return value
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _starts(search: dict[str, Any]) -> list[float]:
    return [_seconds(trial["started"]) for trial in search["trials"] if trial["started"]]


def _seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()


def _plugin(tag: str, data: HParamsPluginData) -> Summary:
    value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])


def _file(events: list[tuple[float, int, Summary]]) -> bytes:
    """An event file of (seconds since 1970, step, summary)."""
    out = io.BytesIO()
    writer = RecordWriter(out)
    writer.write(Event(wall_time=events[0][0], file_version="brain.Event:2").SerializeToString())
    for wall_s, step, summary in events:
        writer.write(Event(wall_time=wall_s, step=step, summary=summary).SerializeToString())
    return out.getvalue()
