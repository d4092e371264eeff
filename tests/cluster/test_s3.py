"""Data and run store on S3, which only the command's own environment knows of."""

from __future__ import annotations

import os

from kdray.data.digits import digit_samples
from kdray.data.shards import write_shards
from kdray.store import Store
from tests.cluster.conftest import TROUBLE, Place
from tests.conftest import S3


def test_run_on_s3_survives_its_worker(joined: Place, s3: S3) -> None:
    """Streamed from S3 by Ray Data, checkpoints, record and scalars to S3; a worker dies and the run goes on."""
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
