"""From image files to a trained student on a cluster: packed to S3 by the job itself, streamed from there, killed in
the middle of an epoch, submitted again. The weights are those of a run on this machine that nobody killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load

from kdray.data.manifest import read_manifest
from kdray.store import Store
from tests.cluster.command import BIN, Process, gone, running
from tests.cluster.conftest import TROUBLE, Head, tensors
from tests.conftest import S3
from tests.data.photos import photos
from tests.tiny import command

CLASSES = ("daisy", "rose", "tulip", "sunflower")
STEPS_PER_EPOCH, HELD = 8, 13
EPOCHS = 3


def lay(folder: Path, split: str, each: int, seed: int) -> None:
    """One split of an ImageFolder: photographs of two shapes."""
    upright = iter(photos(each * len(CLASSES), seed=seed, size=(60, 80)))
    lying = iter(photos(each * len(CLASSES), seed=seed + 1, size=(96, 64)))
    for name in CLASSES:
        (folder / split / name).mkdir(parents=True)
        for number in range(each):
            image = next(upright if number % 3 == 0 else lying)
            (folder / split / name / f"{name}-{split}-{number}.jpg").write_bytes(image)


def experiment(source: Path, shards: str, storage: str, trouble: dict[str, Any], workers: int) -> dict[str, Any]:
    return {
        "name": "flowers",
        "data": {
            "pack": {"source": str(source), "short_side": 48, "shard_bytes": 40_000, "row_group_rows": 16},
            "train": f"{shards}/train",
            "test": f"{shards}/val",
            "mode": "stream",
            "shuffle_window_bytes": 40_000,
            "augment": [{"random_resized_crop": {"size": 32}}, "flip"],
            "eval_transform": [{"resize": {"size": 40}}, {"center_crop": {"size": 32}}],
            "validation": 0,
        },
        "student": {"model": "resnet8", "params": {"width": 0.25}},
        "objectives": {"ce": {}, "trouble": trouble},
        "train": {
            "epochs": EPOCHS,
            "batch": 16,
            "precision": "fp32",
            "log_every": 4,
            "optimizer": {"type": "sgd", "lr": 0.05},
            "checkpoint": {"every_steps": 4, "every_minutes": None},
        },
        "cluster": {"workers": workers, "device": "cpu", "cpus_per_worker": 1} if workers else {"workers": 0},
        "storage": storage,
    }


def driver_of(name: str) -> int:
    """Process id of the job's command that runs the experiment file `name`."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    runs = [line.split(None, 1) for line in table.splitlines()]
    (pid,) = [int(pid) for pid, arguments in runs if arguments.split()[1:4] == ["-m", "kdray.run", name]]
    return pid


def data_actors(head: Head) -> list[str]:
    """Reading and decoding processes that run on the cluster."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    mine = set(head.process.descendants())
    processes = [line.split(None, 1) for line in table.splitlines()]
    return [title for pid, title in processes if int(pid) in mine and title.startswith(("ray::Decoder", "ray::Reader"))]


def test_images_to_s3_to_a_student_through_a_killed_job(
    head: Head, clean_env: dict[str, str], real_s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = tmp_path / "flowers", tmp_path / "job"
    lay(source, "train", 32, seed=10)
    lay(source, "val", 5, seed=20)
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "own.py", folder / "own.py")
    trouble = TROUBLE | {"folder": str(folder), "slow_from": HELD}
    shards, storage = real_s3.uri("packed-job/shards"), real_s3.uri("packed-job/runs")
    tree = experiment(source, shards, storage, trouble, workers=1)
    (folder / "flowers.yaml").write_text(yaml.safe_dump(tree))
    env = clean_env | {"RAY_AUTH_MODE": "token", "RAY_API_SERVER_ADDRESS": head.dashboard}
    told = {"env_vars": real_s3.environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": clean_env["PYTHONPATH"]}}
    submit: list[str | Path] = [BIN / "ray", "job", "submit", "--working-dir", ".", "--runtime-env-json"]
    submit += [json.dumps(told), "--", "python", "-m", "kdray.run", "flowers.yaml"]

    with running(Process(submit, folder, env, tmp_path / "first.log")) as job:
        slow = folder / "slow"
        job.wait_for(lambda: slow.exists() and slow.read_text(), "the middle of the second epoch")
        assert data_actors(head), "it streams"
        os.kill(driver_of("flowers.yaml"), signal.SIGKILL)
        assert job.wait() != 0
        first = job.output
    assert "packing imagefolder" in first and "epoch 1/3" in first
    assert "streamed" in first
    manifest = read_manifest(f"{shards}/train")
    assert manifest.num_samples == 128 and len(manifest.shards) > 3 and manifest.class_names == tuple(sorted(CLASSES))

    with running(Process(submit, folder, env, tmp_path / "second.log")) as job:
        assert gone(int(slow.read_text())), "a worker outlived its job"
        (folder / "go").touch()
        assert job.wait() == 0, job.output
        assert "packing" not in job.output and "goes on from step" in job.output
    head.process.wait_for(lambda: not data_actors(head), "the end of both jobs' data actors")
    store = Store(storage)
    (name,) = store.list("artifacts")
    artifact = store.sub(f"artifacts/{name}")
    record = artifact.read_json("record.json")
    assert STEPS_PER_EPOCH < record["resumed_from"] < EPOCHS * STEPS_PER_EPOCH
    assert record["test"]["images"] == 20 and record["bad_images"] == 0
    on_s3 = {
        f"{file.removesuffix('.safetensors')}/{key}": value
        for file in artifact.list()
        if file.endswith(".safetensors")
        for key, value in load(artifact.read_bytes(file)).items()
    }

    # The same on this machine, from local shards, in one process, without an interruption.
    here = tmp_path / "here"
    local = experiment(source, str(here / "shards"), str(here / "runs"), trouble, workers=0)
    (folder / "local.yaml").write_text(yaml.safe_dump(local))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    done = command("local.yaml")
    assert done.code == 0, done.err
    assert read_manifest(str(here / "shards/train")).fingerprint == manifest.fingerprint
    ours = tensors(here / "runs")
    assert ours.keys() == on_s3.keys()
    assert [key for key, value in ours.items() if not torch.equal(value, on_s3[key])] == []
