"""From image files in a bucket to a student, through a job that is killed: are the weights those of a quiet local run?

    python benchmarks/killed_job.py flowers --data FLOWERS --out benchmarks/records/killed-job-flowers.json
    python benchmarks/killed_job.py cifar100 --data CIFAR --weights resnet56.safetensors --out ...

FLOWERS is a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, CIFAR what `kdray shard` takes for CIFAR-100. An S3
server (Ceph's radosgw where it is installed, else moto) and a Ray head with token authentication run on this machine.
`flowers` is packed to S3 by the job, `cifar100` by `kdray shard` before. The job streams from there, is killed with
SIGKILL in the middle of an epoch of the student and submitted again. Then the same experiment runs in one process, from
shards that are packed to the local disk, and every tensor is compared bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from kdray.data.manifest import read_manifest  # noqa: E402
from kdray.pipeline.record import hardware, now, versions  # noqa: E402
from kdray.store import Store  # noqa: E402
from tests.cluster.command import BIN, Process, ray_head, running  # noqa: E402
from tests.servers.s3 import S3, moto, radosgw, why_no_radosgw  # noqa: E402

DATA = {"flowers": "300 of TensorFlow's flower photos, as files in class folders", "cifar100": "CIFAR-100, whole"}
TEST_SPLIT = {"flowers": "val", "cifar100": "test"}
KILL_EPOCH = 2  # the epoch of the student after which the job is killed, in the middle of the next one


def settings(name: str, args: argparse.Namespace, shards: str, storage: str) -> list[str]:
    """The `--set` options that say where everything lies."""
    sets = {"data.train": f"{shards}/train", "data.test": f"{shards}/{TEST_SPLIT[name]}", "storage": storage}
    if name == "flowers":
        sets["data.pack.source"] = str(args.data.resolve())
    else:
        sets["teacher.weights"] = str(args.weights.resolve())
    return [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]


def finished(command: Process) -> str:
    """What a command printed that must end well."""
    code = command.wait(3600)
    if code:
        raise SystemExit(f"{command.arguments} ended with {code}:\n{command.output}")
    return command.output


def middle_of_an_epoch(job: Process) -> Callable[[], bool]:
    """True when half the time of an epoch has gone since the student's epoch `KILL_EPOCH` ended."""
    ends: dict[int, float] = {}

    def reached() -> bool:
        student = job.output.partition("\nstudent distilled")[2]
        for number in map(int, re.findall(r"^  epoch (\d+)/\d+  ", student, re.MULTILINE)):
            ends.setdefault(number, time.monotonic())
        if KILL_EPOCH not in ends:
            return False
        return time.monotonic() - ends[KILL_EPOCH] > 0.5 * (ends[KILL_EPOCH] - ends[KILL_EPOCH - 1])

    return reached


def driver_of(file: str) -> int:
    """Process id of the command that runs an experiment file inside the job."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    (pid,) = [line.split()[0] for line in table.splitlines() if line.split()[2:5] == ["-m", "kdray.run", file]]
    return int(pid)


def artifacts(storage: str) -> dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """Record and tensors of every stage in a store."""
    store, found = Store(storage), {}
    for name in store.list("artifacts"):
        artifact = store.sub(f"artifacts/{name}")
        files = [file for file in artifact.list() if file.endswith(".safetensors")]
        tensors = {
            f"{file.removesuffix('.safetensors')}/{key}": value
            for file in files
            for key, value in load(artifact.read_bytes(file)).items()
        }
        found[name.partition("-")[0]] = artifact.read_json("record.json"), tensors
    return found


def submit(name: str, options: list[str], env: dict[str, str], folder: Path, log: str) -> Process:
    """`ray job submit` of the experiment, from a folder that holds its file."""
    job: list[str | Path] = [BIN / "ray", "job", "submit", "--working-dir", ".", "--"]
    return Process([*job, "python", "-m", "kdray.run", f"{name}.yaml", *options], folder, env, folder / log)


def show(name: str, args: argparse.Namespace, server: S3, short: Path) -> dict[str, Any]:
    """Pack, submit, kill, submit again, run locally, compare."""
    found: dict[str, Any] = {}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))}
    env = kept | {"HOME": str(short), "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    env |= {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(short)} | server.environment
    job_folder = short / "job"
    job_folder.mkdir()
    shutil.copy(Path(__file__).parent / "jobs" / f"{name}.yaml", job_folder)
    shards, local = server.uri(f"{name}/shards"), short / "local"
    packs = [] if name == "flowers" else [shards, str(local / "shards")]
    for number, dest in enumerate(packs):
        began = time.monotonic()
        pack = Process([BIN / "kdray", "shard", args.data, dest], short, env, short / f"pack-{number}.log")
        print(finished(pack), flush=True)
        found.setdefault("pack_s", []).append(round(time.monotonic() - began, 1))
    options = settings(name, args, shards, server.uri(f"{name}/runs"))
    with ray_head(env, short, cpus=3, object_store_bytes=1_000_000_000) as head:
        joined = env | {"RAY_AUTH_MODE": "token", "RAY_API_SERVER_ADDRESS": head.dashboard}
        with running(submit(name, options, joined, job_folder, "first.log")) as job:
            job.wait_for(middle_of_an_epoch(job), "the middle of an epoch", 3600)
            os.kill(driver_of(f"{name}.yaml"), signal.SIGKILL)
            found["exit_code_of_the_killed_job"] = job.wait()
            print(job.output, flush=True)
        with running(submit(name, options, joined, job_folder, "second.log")) as job:
            print(finished(job), flush=True)
    here = settings(name, args, str(local / "shards"), str(local / "runs"))
    command = [BIN / "python", "-m", "kdray.run", f"{name}.yaml", "--set", "cluster.workers=0", *here]
    print(finished(Process(command, job_folder, env, short / "local.log")), flush=True)
    os.environ.update(server.environment)
    on_s3, on_disk = artifacts(server.uri(f"{name}/runs")), artifacts(str(local / "runs"))
    manifests = [read_manifest(f"{place}/train") for place in (shards, str(local / "shards"))]
    found["train"] = {"images": manifests[0].num_samples, "shards": len(manifests[0].shards)}
    found["fingerprints_equal"] = manifests[0].fingerprint == manifests[1].fingerprint
    for stage, (record, tensors) in on_s3.items():
        local_record, local_tensors = on_disk[stage]
        differ = [key for key in tensors if not torch.equal(tensors[key], local_tensors[key])]
        found[stage] = {
            "resumed_from": record.get("resumed_from"),
            "steps": record.get("steps"),
            "tensors": len(tensors),
            "tensors_that_differ": differ if tensors.keys() == local_tensors.keys() else "other names",
            "test": {key: record["test"][key] for key in ("top1", "images")},
            "test_of_the_local_run": {key: local_record["test"][key] for key in ("top1", "images")},
        }
    return found


def main() -> None:
    """Run it and write the record."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("name", choices=sorted(TEST_SPLIT))
    cli.add_argument("--data", type=Path, required=True)
    cli.add_argument("--weights", type=Path, help="cifar100: weights of its teacher")
    cli.add_argument("--out", type=Path, required=True)
    args = cli.parse_args()
    if args.name == "cifar100" and args.weights is None:
        cli.error("cifar100 needs --weights")
    short = Path(tempfile.mkdtemp(prefix="kd-", dir="/tmp"))  # sockets lie in it: their paths end at 107 bytes
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, short, ignore_errors=True)
        reason = why_no_radosgw()
        server = stack.enter_context(radosgw() if reason is None else moto())
        record = {
            "command": f"benchmarks/killed_job.py {args.name}",
            "data": {"flowers": "TensorFlow's flower photos, 300 of them, as files", "cifar100": "CIFAR-100"}[
                args.name
            ],
            "experiment": f"benchmarks/jobs/{args.name}.yaml",
            "seed": 0,
            "server": "radosgw" if reason is None else f"moto: {reason}",
            "when": now(),
            "hardware": hardware(),
            "versions": versions(),
        }
        record |= show(args.name, args, server, short)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
