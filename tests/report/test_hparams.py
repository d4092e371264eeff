"""HParams of a search, read back as TensorBoard's own HPARAMS tab reads them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

from kdray.report.hparams import write_hparams
from kdray.store import Store
from tests.report.searches import facts, search, trial

PARAMETERS: list[dict[str, Any]] = [
    {"method": "kd", "objectives.kd.weight": 0.25, "objectives.kd.temperature": 4, "nesterov": True, "layers": [1, 2]},
    {"method": "mcld", "nesterov": False, "layers": "all"},
    {"method": "kd", "objectives.kd.weight": 1.0, "objectives.kd.temperature": 8, "nesterov": True, "layers": None},
]
SMALL = facts(
    [
        trial(0, "done", [0.25, 0.5, 0.375], parameters=PARAMETERS[0]),
        trial(1, "stopped", [0.125], parameters=PARAMETERS[1]),
        trial(2, "failed", parameters=PARAMETERS[2]),
        trial(3, "waiting", parameters=PARAMETERS[0]),
        trial(4, "running", [0.25], parameters=PARAMETERS[0]),
    ],
    space={
        "method": "choice(kd, mcld)",
        "objectives.kd.weight": "loguniform(0.1, 2)",
        "objectives.kd.temperature": "choice(2, 4, 8)",
    },
)


class Shown:
    """What TensorBoard's backend makes of a folder."""

    def __init__(self, folder: Path) -> None:
        self.events = EventMultiplexer().AddRunsFromDirectory(str(folder))
        self.events.Reload()
        provider = MultiplexerDataProvider(self.events, str(folder))
        self.context = backend_context.Context(TBContext(data_provider=provider))
        self.experiment = get_experiment.Handler(
            RequestContext(), self.context, "", api_pb2.GetExperimentRequest()
        ).run()

    def groups(self) -> dict[str, Any]:
        """Rows of the table by name."""
        request = api_pb2.ListSessionGroupsRequest(
            start_index=0,
            slice_size=2000,
            allowed_statuses=api_pb2.Status.values(),
            col_params=[api_pb2.ColParams(metric=info.name) for info in self.experiment.metric_infos]
            + [api_pb2.ColParams(hparam=info.name) for info in self.experiment.hparam_infos],
            include_metrics=True,
        )
        handler = list_session_groups.Handler(RequestContext(), self.context, "", request)
        return {group.name: group for group in handler.run().session_groups}


def values(group: Any) -> dict[str, Any]:
    """The parameters of a row as plain values."""
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()}


def test_columns_have_their_domains(tmp_path: Path) -> None:
    uri = write_hparams(Store(tmp_path), "tensorboard/trials", SMALL)
    assert uri == str(tmp_path / "tensorboard/trials")
    columns = {info.name: info for info in Shown(Path(uri)).experiment.hparam_infos}
    assert {name: info.display_name for name, info in columns.items()} == {
        "method": "method",
        "objectives.kd.weight": "weight",
        "objectives.kd.temperature": "temperature",
        "nesterov": "nesterov",
        "layers": "layers",
    }
    domains = {name: [v for v in info.domain_discrete] for name, info in columns.items()}
    assert domains["method"] == ["kd", "mcld"]
    assert domains["objectives.kd.temperature"] == [4, 8]
    assert domains["nesterov"] == [False, True] and domains["layers"] == ["all", "[1, 2]", "null"]
    interval = columns["objectives.kd.weight"].domain_interval
    assert (interval.min_value, interval.max_value) == (0.1, 2.0)
    assert columns["objectives.kd.weight"].description == "loguniform(0.1, 2)"
    kinds = {name: api_pb2.DataType.Name(info.type) for name, info in columns.items()}
    assert kinds["objectives.kd.temperature"] == "DATA_TYPE_FLOAT64" and kinds["nesterov"] == "DATA_TYPE_BOOL"


def test_every_trial_is_a_row(tmp_path: Path) -> None:
    shown = Shown(Path(write_hparams(Store(tmp_path), "trials", SMALL)))
    assert [info.name.tag for info in shown.experiment.metric_infos] == ["best/val/top1", "val/top1", "loss/total"]
    rows = shown.groups()
    assert sorted(rows) == ["0000", "0001", "0002", "0004"]  # what waits has nothing to show
    first = rows["0000"]
    assert values(first) == {
        "method": "kd",
        "objectives.kd.weight": 0.25,
        "objectives.kd.temperature": 4,
        "nesterov": True,
        "layers": "[1, 2]",
    }
    metrics = {value.name.tag: (value.value, value.training_step) for value in first.metric_values}
    assert metrics == {"best/val/top1": (0.5, 2), "val/top1": (0.375, 3), "loss/total": (2.625, 3)}
    assert values(rows["0001"]) == {"method": "mcld", "nesterov": False, "layers": "all"}
    states = {name: api_pb2.Status.Name(row.sessions[0].status) for name, row in rows.items()}
    assert states == {
        "0000": "STATUS_SUCCESS",
        "0001": "STATUS_SUCCESS",
        "0002": "STATUS_FAILURE",
        "0004": "STATUS_UNKNOWN",  # no end is known
    }
    assert first.sessions[0].model_uri == SMALL["trials"][0]["artifact"]
    assert first.sessions[0].end_time_secs - first.sessions[0].start_time_secs == 33


def test_metrics_by_epoch_are_scalars(tmp_path: Path) -> None:
    shown = Shown(Path(write_hparams(Store(tmp_path), "trials", SMALL)))
    points = shown.events.Tensors("0000", "val/top1")
    assert [(point.step, point.tensor_proto.float_val[0]) for point in points] == [(1, 0.25), (2, 0.5), (3, 0.375)]
    assert "epoch" not in shown.events.GetAccumulator("0000").Tags()["tensors"]


def test_a_search_without_trials(tmp_path: Path) -> None:
    shown = Shown(Path(write_hparams(Store(tmp_path), "trials", facts([]))))
    assert [info.name.tag for info in shown.experiment.metric_infos] == ["best/val/top1", "val/top1"]
    assert shown.groups() == {}


def test_a_thousand_trials_take_seconds(tmp_path: Path) -> None:
    some = search(1000)
    began = time.monotonic()
    write_hparams(Store(tmp_path), "trials", some)
    assert time.monotonic() - began < 60
    assert len(list((tmp_path / "trials").iterdir())) == 1001
