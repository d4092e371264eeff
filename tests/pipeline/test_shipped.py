"""The experiments that come with kdray: short, with a header that says what to expect, planned and smoked here."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch

import kdray
from kdray.experiment import load_experiment
from tests.tiny import command

FOLDER = Path(kdray.__file__).parents[1] / "experiments"
WHOLE = sorted(FOLDER.glob("*.yaml"))
ALL = sorted(FOLDER.rglob("*.yaml"))
FIRST = 60.0  # seconds that a smoke run may take on a busy laptop


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shipped")


def test_there_are_some() -> None:
    assert {"quickstart", "cifar100_clmkd", "imagenet_clmkd"} <= {path.stem for path in WHOLE}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_file_is_short_and_says_what_it_is(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    header = "\n".join(line for line in lines[: next(n for n, line in enumerate(lines) if line[:1] != "#")])
    assert re.search(r"\b(19|20)\d\d\b|et al\.|Recipe ours", header), "no paper"
    if path in WHOLE:
        assert f"python -m kdray.run experiments/{path.name}" in header
        assert re.search(r"Hardware: |CPU cores", header), "no hardware"
        assert re.search(r"minutes|hours|[Tt]imes?\b", header), "no time"
        assert load_experiment(path).name == path.stem


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_dry_run_plans_it(path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    before = sorted(workplace.rglob("*"))
    done = command(path, "--dry-run")
    assert (done.code, done.err) == (0, "")
    experiment = load_experiment(path)
    for role in (experiment.teacher, experiment.student):
        assert role is None or f": {role.model}  [" in done.out
    assert sorted(workplace.rglob("*")) == before


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_smoke_run_takes_a_minute_at_most(path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("a smoke run went to the network"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("weights were fetched"))
    began = time.monotonic()
    done = command(path, "--smoke", "--set", "cluster.workers=0")
    assert done.code == 0, done.err
    assert time.monotonic() - began < FIRST
    experiment = load_experiment(path)
    if experiment.student is not None:
        assert f"student distilled: {experiment.student.model}" in done.out
    assert f"record: {workplace}/runs/smoke/runs/{path.stem}-" in done.out
