"""The benchmark of the decoders runs, and the docs show its record."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from .photos import photos

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("decode_benchmark", ROOT / "benchmarks" / "decode.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_docs_show_the_record(benchmark: ModuleType) -> None:
    record = json.loads((ROOT / "benchmarks" / "records" / "decode-cpu.json").read_text())
    lines = benchmark.table(record)
    assert len(lines) == 2 + len(benchmark.ARMS) + 1
    assert "\n".join(lines) in (ROOT / "docs" / "augment.md").read_text()


def test_it_measures_every_arm_and_kdray_is_true_to_pillow(benchmark: ModuleType, tmp_path: Path) -> None:
    for number, data in enumerate(photos(4)):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    images = benchmark.load(str(tmp_path), 3)
    assert images == photos(3)
    found = benchmark.measure(images, 1)
    assert set(found) == {*benchmark.ARMS, benchmark.KDRAY} and all(len(rounds) == 1 for rounds in found.values())
    off = benchmark.errors(images)
    assert off[benchmark.KDRAY]["max"] <= 1 and off["OpenCV, INTER_LINEAR"]["max"] > 1
