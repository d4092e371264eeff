"""The benchmark of trials that share resident images does what its record says, and the docs show the record."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from kdray.data.shared import LocalSharing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "data_arms")
    spec = importlib.util.spec_from_file_location("resident_benchmark", ROOT / "benchmarks" / "resident.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_docs_show_the_record(benchmark: ModuleType) -> None:
    record = json.loads((ROOT / "benchmarks" / "records" / "resident-cpu.json").read_text())
    lines = benchmark.table(record)
    assert len(lines) == 2 + len(record["alone"]) == 2 + len(record["shared"])
    assert "\n".join(lines) in (ROOT / "docs" / "performance.md").read_text()


def test_a_trial_takes_a_batch_of_all_images(benchmark: ModuleType, small) -> None:
    trial, sharing = benchmark.Trial(), LocalSharing()
    trial.ready(small.uri)
    assert trial.begin(small.uri, sharing) > 0 and trial.begin(small.uri, None) > 0
    assert sharing.nbytes > small.num_samples * 24 * 24 * 3 and benchmark.memory_mb() > 10
