"""Storage, devices and memory that cannot serve a run end in one line before it; a run that fails ends in one too."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

import pytest
import torch

from tests.pipeline.refused import refused
from tests.tiny import Done, Lab

pytestmark = pytest.mark.usefixtures("nothing_runs")


def test_no_space_for_the_checkpoints(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    said = refused(lab, {})
    assert f"storage {lab.store}: checkpoints need about" in said
    assert "Free some space, lower train.checkpoint.keep, or give another storage" in said


def test_a_store_that_must_not_be_written(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdray.store.local import LocalFiles

    def denied(self: object, path: str, data: bytes) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(LocalFiles, "write", denied)
    said = refused(lab, {})
    assert f"storage {lab.store}: no permission to write. Give this user write permission there" in said


def test_a_disk_that_is_full(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdray.store.local import LocalFiles

    def full(self: object, path: str, data: bytes) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(LocalFiles, "write", full)
    assert f"storage {lab.store}: no space left on the device" in refused(lab, {})


@pytest.fixture
def silent_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"storage": "s3://bucket/runs"}, "storage s3://bucket"),
        ({"data": {"source": None, "root": None, "train": "s3://bucket/train"}}, "data.train s3://bucket"),
        ({"teacher": {"weights": "s3://bucket/t.safetensors"}}, "teacher.weights s3://bucket"),
    ],
)
def test_an_endpoint_that_does_not_answer(lab: Lab, silent_endpoint: None, changes: dict[str, Any], key: str) -> None:
    began = time.monotonic()
    said = refused(lab, changes)
    assert time.monotonic() - began < 30
    assert f"{key}: endpoint http://127.0.0.1:9 does not answer (" in said and "Check that it is up" in said


def test_gpus_that_are_not_there(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = refused(lab, {"cluster": {"device": "cuda"}})
    assert "cluster.device: there is no CUDA device here. Write auto or cpu" in said


def test_banks_that_no_memory_holds(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 128 if name == "SC_PHYS_PAGES" else real(name))
    said = refused(lab, {"objectives": {"clmkd.class_guided": {"mode": "memory"}}})
    assert "objectives: stage student distilled keeps" in said and "clmkd.class_guided" in said


def test_an_error_in_a_run_keeps_what_was_done(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only shows in the run ends in one line as well, and the stages before it are kept."""
    monkeypatch.undo()
    monkeypatch.chdir(lab.folder)
    done: Done = lab.run(
        changes={"train": {"optimizer": {"lr": 1e9}}, "teacher": {"train": {"optimizer": {"lr": 0.1}}}}
    )
    said = done.error(1)
    assert "not finite" in said or "diverges" in said
    whole = [name for name in lab.artifacts() if (lab.store / "artifacts" / name / "record.json").exists()]
    assert [name.partition("-")[0] for name in whole] == ["teacher"]
