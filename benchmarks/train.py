"""How much of a bare loop's speed kdray's loop keeps, and how long its command takes to the first step.

    python benchmarks/train.py --data SHARDS --file ONE_SHARD --teacher resnet56.safetensors --out train-NAME.json

KD step, ResNet-56 -> ResNet-20, CIFAR shapes, resident data. Every figure is a ratio inside one run: the arms take
turns, round after round, each as a process of its own, and the medians are compared. An arm's first epoch warms it up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kdray.pipeline.record import hardware, now, versions

HERE = Path(__file__).parent
ARMS = ("kdray_ray", "kdray_process", "bare_same_format", "bare_fp32_loader")
TRIVIAL = """
import sys, time
import ray, ray.train, ray.train.torch

def train(config):
    import torch
    layer = torch.nn.Linear(8, 8)
    layer(torch.randn(4, 8)).sum().backward()
    with open(config["out"], "w") as out:
        out.write(str(time.time()))

ray.init(_node_ip_address="127.0.0.1", dashboard_host="127.0.0.1", log_to_driver=False, logging_level="ERROR")
scaling = ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 2})
run = ray.train.RunConfig(storage_path=sys.argv[2])
config = {"out": sys.argv[1]}
ray.train.torch.TorchTrainer(train, train_loop_config=config, scaling_config=scaling, run_config=run).fit()
"""


def experiment(args: argparse.Namespace, storage: str, epochs: int) -> str:
    """The experiment that the kdray arms run, as YAML."""
    return f"""
name: bench
data: {{train: {args.data}, augment: [pad_crop, flip], validation: 0, limit: {args.images}, mode: resident}}
teacher: {{model: resnet56, weights: {args.teacher}}}
student: {{model: resnet20}}
objectives: {{ce: {{}}, kd: {{temperature: 4}}}}
train: {{epochs: {epochs}, batch: {args.batch}, optimizer: {{lr: 0.05}}}}
storage: {storage}
"""


def kdray(args: argparse.Namespace, workers: int, epochs: int) -> dict:
    """Run the command once with an empty store, but for the teacher's evaluation; return its student stage."""
    with tempfile.TemporaryDirectory(prefix="kdray-bench-") as folder:
        path = Path(folder, "bench.yaml")
        path.write_text(experiment(args, folder, epochs))
        started = time.time()
        command = [sys.executable, "-m", "kdray.run", str(path), "--set", f"cluster.workers={workers}"]
        environment = os.environ | {"RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token")}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        records = list(Path(folder, "runs").glob("*/record.json"))
        stage = json.loads(records[0].read_text())["stages"][-1]
        return stage | {"command_to_first_step_s": stage["first_step_at"] - started}


def bare(args: argparse.Namespace, loop: str) -> float:
    """Images per second of the last epochs of a bare loop."""
    command = [sys.executable, str(HERE / "bare.py"), loop, "--data", args.file, "--teacher", args.teacher]
    command += ["--images", str(args.images), "--batch", str(args.batch), "--epochs", str(args.epochs)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return statistics.median(json.loads(out.strip().splitlines()[-1])[1:])


def trivial_first_step(_: argparse.Namespace) -> float:
    """Seconds from the command to the train function of the smallest one-worker TorchTrainer script."""
    with tempfile.TemporaryDirectory(prefix="kdray-bench-") as folder:
        script, mark = Path(folder, "trivial.py"), Path(folder, "mark")
        script.write_text(TRIVIAL)
        started = time.time()
        environment = os.environ | {"RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token")}
        subprocess.run(
            [sys.executable, str(script), str(mark), folder],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        return float(mark.read_text()) - started


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """All figures of all rounds."""
    found: dict[str, list[float]] = {name: [] for name in ARMS}
    found |= {"first_step_process_s": [], "first_step_ray_s": [], "first_step_trivial_ray_s": []}
    for number in range(args.rounds):
        for name, workers in (("kdray_ray", 1), ("kdray_process", 0)):
            stage = kdray(args, workers, args.epochs)
            found[name].append(statistics.median([row["images_per_s"] for row in stage["history"]][1:]))
            key = "first_step_ray_s" if workers else "first_step_process_s"
            found[key].append(stage["command_to_first_step_s"])
        found["bare_same_format"].append(bare(args, "same_format"))
        found["bare_fp32_loader"].append(bare(args, "research_code"))
        found["first_step_trivial_ray_s"].append(trivial_first_step(args))
        print(f"round {number + 1}/{args.rounds}: " + ", ".join(f"{k} {v[-1]:.1f}" for k, v in found.items()))
    return found


def ratios(found: dict[str, list[float]]) -> dict[str, float]:
    """Medians of the ratios inside each round."""

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(found[a], found[b], strict=True))

    return {
        "kdray_process / bare_same_format": ratio("kdray_process", "bare_same_format"),
        "kdray_ray / bare_same_format": ratio("kdray_ray", "bare_same_format"),
        "kdray_process / bare_fp32_loader": ratio("kdray_process", "bare_fp32_loader"),
        "kdray_ray / kdray_process": ratio("kdray_ray", "kdray_process"),
        "first step: kdray_ray / trivial TorchTrainer": ratio("first_step_ray_s", "first_step_trivial_ray_s"),
        "first step: kdray_process, seconds": statistics.median(found["first_step_process_s"]),
    }


def main() -> None:
    """Measure and write the record."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", required=True, help="CIFAR-100 training shards: folder, file or glob")
    cli.add_argument("--file", required=True, help="one Parquet file of them, for the bare loops")
    cli.add_argument("--teacher", required=True, help="ResNet-56 weights, safetensors")
    cli.add_argument("--images", type=int, default=6400)
    cli.add_argument("--batch", type=int, default=64)
    cli.add_argument("--epochs", type=int, default=3)
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument("--out", type=Path, required=True)
    args = cli.parse_args()
    found = measure(args)
    settings = {key: getattr(args, key) for key in ("images", "batch", "epochs", "rounds")}
    record = {
        "command": "benchmarks/train.py",
        "data": "CIFAR-100 train",
        "seed": 0,
        "when": now(),
        "settings": settings,
        "hardware": hardware(),
        "versions": versions(),
        "images_per_s": {name: found[name] for name in ARMS},
        "first_step_s": {name: values for name, values in found.items() if name.startswith("first_step")},
        "ratios": ratios(found),
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["ratios"], indent=1))


if __name__ == "__main__":
    main()
