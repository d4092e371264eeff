"""Data and run store on S3, which only the command's own environment knows of."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdray.data.digits import digit_samples
from kdray.data.shards import write_shards
from kdray.store import Store
from tests.cluster.command import BIN
from tests.cluster.conftest import TROUBLE, Head, Place
from tests.conftest import S3

TOKEN = "token-that-nobody-may-see"


def test_run_on_s3_survives_its_worker(joined: Place, s3: S3, head: Head) -> None:
    """Streamed from S3 by data actors, checkpoints, record and scalars to S3; a worker dies and the run goes on."""
    for split in ("train", "test"):
        write_shards(digit_samples(split), s3.uri(f"cluster/data/{split}"), shard_bytes=100_000, row_group_rows=64)
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    trouble = TROUBLE | {"folder": str(joined.folder), "die_at": [20]}
    experiment = joined.write(
        data={
            "source": None,
            "train": s3.uri("cluster/data/train"),
            "test": s3.uri("cluster/data/test"),
            "mode": "stream",
            "shuffle_window_bytes": 100_000,
        },
        teacher=None,
        objectives={"kd": None, "clmkd.class_guided": None, "trouble": trouble},
        storage=s3.uri("cluster/store"),
    )
    aws["AWS_SESSION_TOKEN"] = TOKEN  # this server asks for none, and is sent it all the same
    output = joined.run(experiment, env=aws)
    assert (joined.folder / "died-20").exists()
    assert "worker 0 died" in output and "goes on from step" in output
    store = Store(s3.uri("cluster/store"))
    (name,) = store.list("artifacts")
    artifact = store.sub(f"artifacts/{name}")
    there = set(artifact.list())
    assert {"model.safetensors", "model.json", "last.safetensors", "best.safetensors", "record.json"} <= there
    assert not [name for name in there if name.startswith(("checkpoints", "ray"))], "a running stage's own is gone"
    assert any("events.out.tfevents" in file for file in artifact.list("tensorboard"))
    record = artifact.read_json("record.json")
    assert record["resumed_from"] in (16, 20), "that of step 20 was perhaps still being written"
    assert record["test"]["images"] == 359
    (run,) = store.list("runs")
    assert store.read_json(f"runs/{run}/record.json")["status"] == "done"
    # Once more, nothing is left to do.
    assert "student: reused" in joined.run(experiment, env=aws)
    _assert_kept_secret([s3.secret_key, TOKEN], store, [head.folder, joined.folder], joined.env)


def _assert_kept_secret(secrets: list[str], store: Store, folders: list[Path], env: dict[str, str]) -> None:
    """They are in nothing that the run left, in no log of Ray's, and in nothing that Ray tells of its jobs."""
    left = {name: store.read_bytes(name) for name in _all_below(store)}
    assert any(name.startswith("runs/") for name in left) and any(name.count("/") > 2 for name in left), list(left)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert any("runtime_env" in path.name for path in files), "logs are where they are searched"
    left |= {str(path): path.read_bytes() for path in files}
    assert not [name for name, content in left.items() for secret in secrets if secret.encode() in content]
    for what in ("jobs", "runtime-envs", "tasks", "actors", "workers"):
        command = [BIN / "ray", "list", what, "--detail", "--format", "json", "--limit", "1000"]
        told = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
        assert told.strip() not in ("", "[]"), what
        assert not [secret for secret in secrets if secret in told], what


def _all_below(store: Store, folder: str = "") -> Iterator[str]:
    """The names of all files of the store, however deep."""
    for name in store.list(folder):
        path = f"{folder}/{name}".lstrip("/")
        if store.list(path):
            yield from _all_below(store, path)
        else:
            yield path


def test_ray_is_given_no_key_where_it_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdray.train.environment import storage_credentials, storage_settings

    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert storage_credentials() is None
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://here")
    assert storage_settings()["AWS_ENDPOINT_URL"] == "http://here" and "mine" not in str(storage_settings())
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://user:p@ssword@host:9000")
    assert storage_settings()["AWS_ENDPOINT_URL_S3"] == "https://host:9000"
    hook = storage_credentials()
    assert hook is not None and hook.__name__ == "set_storage_credentials"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the node's")
    hook()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "mine"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert storage_credentials() is None and storage_settings() == {}
