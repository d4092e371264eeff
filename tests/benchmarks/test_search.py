"""The benchmarks of searches: the sweep of trials that do nothing runs, the tables say what the records say."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMMON = {"hardware": {"cpu": "a CPU", "cpus": 2}, "versions": {"torch": "2.0", "ray": "2.9"}}


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A benchmark as a module; its own modules are found as they are when it is run as a script."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


def cells(lines: list[str], title: str) -> list[str]:
    """The cells of the row of a table that begins with `title`, after it."""
    (line,) = [line for line in lines if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_a_sweep_of_trials_that_do_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "search-scale.json"
    command = [sys.executable, str(BENCHMARKS / "search_scale.py"), "--trials", "5", "--concurrent", "2"]
    subprocess.run([*command, "--out", str(out)], check=True, timeout=300)
    record = json.loads(out.read_text())
    (sweep,) = record["sweeps"]
    assert sweep["trials"] == sweep["journal_files"] == 5 and sweep["processes"] == 2
    assert sweep["driver_cpu_s_per_trial"] > 0 and 0 < sweep["s_per_trial"] < sweep["wall_s"]
    assert 5 * 200 < sweep["journal_bytes"] < 5 * 5000 and sweep["tune_files"] > 0
    assert sweep["resume_s"] == pytest.approx(sweep["load_s"] + sweep["sampler_s"] + sweep["scheduler_s"])
    table = module("search_table", monkeypatch).search_scale(tmp_path)
    assert cells(table, "journal, files") == ["5", "1.0"]


def arm(wall_s: float, **more: Any) -> dict[str, Any]:
    return {"wall_s": wall_s, "trial_s": [11.0, 12.0], "train_s": [10.0, 10.0], "teachers_computed": 0} | more


def test_the_cost_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = module("search", monkeypatch)
    assert search.derived(arm(20.0, slots=2)) == {
        "efficiency": 0.5,
        "efficiency_trials": 23 / 40,
        "overhead_s": 10.0,
        "overhead_trials_s": 8.5,
    }
    stages = [{"stage": "teacher", "reused": True}, {"stage": "teacher", "reused": False}, {"stage": "student"}]
    assert search.computed([{"stages": stages}]) == 1
    arms = {"1": arm(30.0, slots=1, trials_wall_s=25.0), "2": arm(20.0, slots=2, trials_wall_s=16.0)}
    record = COMMON | {
        "data": "digits",
        "settings": {"trials": 2, "epochs": 3},
        "sweeps": {slots: found | search.derived(found) for slots, found in arms.items()},
        "loops": {name: arm(32.0, teachers_computed=1) for name in search.LOOPS},
        "starts": {"process": {"first_step_s": [5.0, 1.0, 2.0, 9.0], "beside_s": [6.0, 2.0, 3.0, 4.0]}},
        "ratios": {f"{name} / sweep, 2 slots": ratio for name, ratio in zip(search.LOOPS, (1.6, 1.4), strict=True)},
    }
    (tmp_path / "search-cpu.json").write_text(json.dumps(record))
    table = module("search_table", monkeypatch).search(tmp_path)
    assert cells(table, "sweep, 1 slot") == ["30", "20", "0.67", "5.0", "2.5", "2.5"]
    assert cells(table, "sweep, 2 slots") == ["20", "20", "0.50", "10.0", "6.0", "4.0"]
    assert cells(table, "a command a trial, Ray") == ["32", "20", "0.62", "6.0", "1.5", "4.5"]
    assert cells(table, "wall clock: a command a trial, Ray / sweep, 2 slots") == ["≥ 1.5", "1.60"]
    assert cells(table, "wall clock: a command a trial, without Ray / sweep, 2 slots") == ["≥ 1.5", "1.40, missed"]
    assert cells(table, "sweep, 2 slots: s a trial beside training, in the trials' time") == ["≤ 8", "6.0"]
    assert cells(table, "sweep, 2 slots: s a trial beside training, in all") == ["≤ 8", "10.0, missed"]
    assert cells(table, "teachers computed in all of them, where one was there") == ["0", "2"]
    assert cells(table, "process") == ["5.0", "2.0", "3.0"]


def test_experiments_of_the_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdray.experiment import load_comparison
    from kdray.objectives.search_space import space_of

    search = module("search", monkeypatch)
    args = argparse.Namespace(set=["train.batch=32"], data=None, epochs=5, trials=3)
    bench = search.Bench(args, tmp_path)
    plain = load_comparison(bench.file("a", tmp_path / "a", search=False), []).first
    searched = load_comparison(bench.file("b", tmp_path / "b", search=True), []).first
    assert plain.search is None and searched.search is not None and searched.search.wanted(space_of(searched)) == 3
    assert plain.train == searched.train and plain.teacher == searched.teacher and plain.data == searched.data
    args.data = "shards/train"
    assert load_comparison(bench.file("c", tmp_path / "c", search=False), []).first.data.train == "shards/train"


def test_tables_are_put_in_the_place_of_old_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    table = module("table", monkeypatch)
    page = "# A\n\ntext\n\n`x.json`: old\n\n| a |\n|---|\n\n| b |\n|---|\n| 1 |\n\n    command\n\n| other |\n"
    lines = ["`x.json`: new", "", "| c |", "|---|"]
    found = table.redraw(page, lines)
    assert found == "# A\n\ntext\n\n`x.json`: new\n\n| c |\n|---|\n\n    command\n\n| other |\n"
    assert table.redraw(found, lines) == found
    with pytest.raises(SystemExit, match="0 lines"):
        table.redraw("nothing", lines)
