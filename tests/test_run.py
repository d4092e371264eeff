"""The command: what it prints, what it returns, and what it says when something is wrong with the command itself."""

from __future__ import annotations

import json
import os
import signal
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import kdray
from kdray.errors import KdrayError
from kdray.experiment import load_experiment
from kdray.run import main, parser
from tests.tiny import Lab, command, tree_of

ROOT = Path(kdray.__file__).parents[1]

# Networks of a user whose code fails: one while it is planned, one only when it trains (the plan runs on "meta").
BROKEN = """
import torch


class Trains(torch.nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.features, self.fc = torch.nn.Conv2d(3, 4, 3, 2), torch.nn.Linear(4, num_classes)

    def forward(self, images):
        if images.device.type != "meta" and self.training:
            raise ZeroDivisionError("the user's own fault")
        return self.fc(torch.relu(self.features(images)).mean(dim=(2, 3)))
"""


def test_a_run_trains_both_and_says_what_came_out(lab: Lab) -> None:
    done = lab.run(changes={"student": {"alone": True}})
    assert (done.code, done.err) == (0, "")
    for words in ("teacher: resnet8", "student alone: resnet8", "student distilled: resnet8", "test last", "data wait"):
        assert words in done.out, words
    record = lab.record(done)
    assert [stage["stage"] for stage in record["stages"]] == ["teacher", "student_alone", "student"]
    assert not any(stage["reused"] for stage in record["stages"])
    for stage in record["stages"]:
        folder = Path(stage["artifact"])
        assert f"{stage['title']}: {folder}" in done.out
        assert {"model.safetensors", "model.json", "record.json", "tensorboard"} <= set(os.listdir(folder))
        assert "checkpoints" not in os.listdir(folder)
    assert load_experiment(Path(record["uri"]).with_name("experiment.yaml")) == load_experiment(
        lab.folder / "tiny.yaml"
    )


def test_the_second_run_reuses_everything_and_leaves_the_record(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    first = lab.run()
    before = tree_of(lab.store)
    monkeypatch.setattr("kdray.train.worker.StageWorker.run", lambda self: pytest.fail("something ran again"))
    second = lab.run()
    assert second.code == 0
    assert "teacher: reused" in second.out and "student distilled: reused" in second.out
    assert "teacher: resnet8 (reused)" in second.out and "(reused)" not in first.out
    assert tree_of(lab.store) == before


def test_print_config_is_the_whole_experiment_and_nothing_else(lab: Lab) -> None:
    path = lab.write()
    before = tree_of(lab.folder)
    done = command(path, "--print-config", "--set", "seed=7")
    assert (done.code, done.err) == (0, "")
    assert tree_of(lab.folder) == before
    again = lab.folder / "again.yaml"
    again.write_text(done.out)
    assert load_experiment(again) == load_experiment(path, ["seed=7"])
    assert "divergence_factor: 50.0" in done.out  # a default


def test_print_config_of_the_small_version_loads_too(lab: Lab) -> None:
    path = lab.write({"train": {"epochs": 9}, "data": {"limit": None}})
    before = tree_of(lab.folder)
    done = command(path, "--print-config", "--smoke")
    assert done.code == 0 and tree_of(lab.folder) == before
    again = lab.folder / "again.yaml"
    again.write_text(done.out)
    assert load_experiment(again).train.epochs == 2


@pytest.mark.parametrize(
    "what, cells",
    [
        ("models", ["resnet20", "278K", "CVPR 2016", "torchvision/NAME", "package.module:callable"]),
        ("methods", ["clmkd.class_guided", "contrastive", "reconstruction", "CRCKD", "Hinton"]),
        ("sources", ["digits", "1438 / 359", "cifar100", "50000 / 10000", "shards"]),
    ],
)
def test_lists_fit_a_pipe(what: str, cells: list[str]) -> None:
    done = command("--list", what)
    assert (done.code, done.err) == (0, "")
    for cell in cells:
        assert cell in done.out, cell
    lines = done.out.splitlines()
    assert max(len(line) for line in lines) <= 140
    rows = [line for line in lines if line.startswith("│")]
    assert len({line.count("│") for line in rows}) == 1
    assert not any("…" in line for line in rows)


def test_every_method_says_where_it_comes_from() -> None:
    from kdray.objectives.registry import list_methods

    rows = [line.split("│") for line in command("--list", "methods").out.splitlines() if line.startswith("│")]
    named = {cells[1].strip(): [cell.strip() for cell in cells] for cells in rows if cells[1].strip()}
    assert set(named) == {row.name for row in list_methods()}
    for name, cells in named.items():
        assert all(cells[column] for column in (2, 3, 4, 5)), name


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "no experiment is named. Give a YAML file"),
        (["x.yaml", "--dryrun"], "unrecognized arguments: --dryrun"),
        (["--list", "teachers"], "invalid choice: 'teachers' (choose from"),
        (["x.yaml", "--run-id"], "--run-id: expected one argument"),
        (["x.yaml", "--run-id", "../up"], "--run-id: '../up' is no folder name"),
        (["x.yaml", "--run-id", ".."], "--run-id: '..' is no folder name"),
        (["x.yaml"], "x.yaml: no such file"),
        (["x.yaml", "--set", "seed"], "wants path=value"),
    ],
)
def test_a_wrong_command_line_is_one_line(lab: Lab, arguments: list[str], said: str) -> None:
    assert said in command(*arguments).error()
    assert tree_of(lab.folder) == {}


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    readme = (ROOT / "README.md").read_text()
    for action in parser()._actions:
        for option in action.option_strings:
            assert option in text
            assert option in ("-h", "--help") or f"{option}" in readme, option


def test_the_console_script_runs_experiments(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["kdray"].partition(":")
    command = getattr(import_module(module), name)
    assert command(["--print-config", str(lab.write())]) == 0
    said = capsys.readouterr().out
    assert main(["--print-config", str(lab.write())]) == 0
    assert capsys.readouterr().out == said


def test_a_run_id_names_the_record(lab: Lab) -> None:
    record = lab.done("--run-id", "mine")
    assert record["run_id"] == "mine" and os.listdir(lab.store / "runs") == ["mine"]
    assert lab.record(lab.run("--run-id", "mine")) == record


def test_a_run_id_that_is_taken_is_refused(lab: Lab) -> None:
    lab.done("--run-id", "mine")
    before = tree_of(lab.store)
    said = lab.run("--run-id", "mine", changes={"seed": 1}).error()
    assert "--run-id: 'mine' is the run of another experiment" in said
    assert "--run-id: 'mine' is there already" in lab.run("--run-id", "mine", "--fresh").error()
    assert tree_of(lab.store) == before


def test_a_bug_in_a_run_leaves_one_line_and_its_traceback_in_the_store(lab: Lab) -> None:
    (lab.folder / "broken_in_training.py").write_text(BROKEN)
    done = lab.run(changes={"student": {"model": "broken_in_training:Trains", "params": None}})
    said = done.error(1)
    assert said.startswith("ZeroDivisionError: the user's own fault (at step 0). Traceback: ")
    path = Path(said.rpartition(" ")[2])
    assert path.is_relative_to(lab.store / "runs")
    assert "in forward" in path.read_text() and "broken_in_training.py" in path.read_text()
    record = json.loads(path.with_name("record.json").read_text())
    assert record["status"] == "failed" and record["error"].startswith("ZeroDivisionError: the user's own fault")
    assert [stage["stage"] for stage in record["stages"]] == ["teacher"]  # what was done is kept


def test_debugging_shows_the_traceback_of_every_error(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDRAY_DEBUG", "1")
    done = lab.run("--dry-run", changes={"student": {"model": "resnet9"}})
    assert done.code == 2
    assert "Traceback" in done.err and "kdray/models/zoo.py" in done.err
    assert done.err.splitlines()[-1].startswith("kdray: ")


def test_a_bug_before_the_run_shows_its_traceback(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in the plan")

    monkeypatch.setattr("kdray.pipeline.plan.open_dataset", broken)
    done = lab.run()
    assert done.code == 1 and "in broken" in done.err
    assert done.err.splitlines()[-1].startswith("kdray: unexpected ZeroDivisionError: in the plan")
    assert not lab.store.exists()


def test_a_reader_that_goes_away_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as stop:
            main(["--list", "models"])
        monkeypatch.undo()
    assert stop.value.code == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_planning_stops_at_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr("kdray.pipeline.plan.open_dataset", lambda data: os.kill(os.getpid(), number))
    before = signal.getsignal(signal.SIGTERM)
    assert "stopped at once" in lab.run().error(130)
    assert not lab.store.exists() and signal.getsignal(signal.SIGTERM) is before


def test_errors_keep_their_exit_code(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(KdrayError):
        exit_code = 1

    def failing(*_: object, **__: object) -> None:
        raise Odd("no luck", where="here", fix="Try again")

    monkeypatch.setattr("kdray.train.worker.StageWorker.run", failing)
    assert lab.run().error(1) == "here: no luck. Try again"
