"""How much of a sweep's time its trials train, beside the same trials run by hand, one command after the other.

    python benchmarks/search.py --out benchmarks/records/search-cpu.json
    python benchmarks/table.py search

A teacher is trained once, before; every arm begins with a copy of the store that it lies in. The sweeps are one command
each, on one and two slots of a core; the loops are a command for each trial, with and without Ray, on all cores. Wall
clock is that of the commands. `search_starts.py` then compares the ways to run a trial. The data are the handwritten
digits, or shards: `--data TRAIN --set teacher.weights=URI --epochs 2`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SLOTS = (1, 2)
LOOPS = {"loop_ray": 1, "loop_process": 0}  # workers
EXPERIMENT = """
name: bench
seed: 0
data: {data}
teacher: {{model: resnet20, train: {{epochs: 2, optimizer: {{lr: 0.05}}}}}}
student: {{model: resnet8}}
objectives: {{ce: {{}}, kd: {{}}}}
train: {{epochs: {epochs}, batch: 64, optimizer: {{lr: 0.05}}}}
cluster: {{workers: 1}}
storage: {storage}
"""
SEARCH = """
search:
  space:
    objectives.kd.weight: uniform(0.1, 2)
    objectives.kd.temperature: choice(2, 4, 8)
    train.optimizer.lr: loguniform(0.02, 0.2)
  trials: {trials}
  searcher: random
  scheduler: none
"""


class Bench:
    """The commands of one run of the benchmark, in `folder`; `more` are `--set` options of all of them."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.more = [part for change in args.set for part in ("--set", change)]
        self.prepared = folder / "prepared"

    def file(self, name: str, store: Path, search: bool) -> Path:
        """An experiment file whose store is `store`."""
        digits = f"{{source: digits, root: {self.folder / 'digits'}, augment: [pad_crop], validation: 0.1}}"
        shards = f"{{train: {self.args.data}, augment: [pad_crop, flip], validation: 0.1}}"
        data = shards if self.args.data else digits
        text = EXPERIMENT.format(data=data, epochs=self.args.epochs, storage=store)
        path = self.folder / f"{name}.yaml"
        path.write_text(text + (SEARCH.format(trials=self.args.trials) if search else ""))
        return path

    def store(self, name: str) -> Path:
        """A store for an arm, with the teacher in it."""
        shutil.copytree(self.prepared, self.folder / name)
        return self.folder / name

    def command(self, path: Path, *sets: str) -> float:
        """Run a command to its good end; its seconds."""
        options = [part for change in sets for part in ("--set", change)]
        environment = os.environ | {"RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token")}
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "kdray.run", str(path), *self.more, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        if done.returncode:
            raise SystemExit(f"{path.stem} {' '.join(sets)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
        return time.perf_counter() - began

    def prepare(self) -> float:
        """Train the teacher, as an experiment without a student does; seconds of the command."""
        path = self.file("teacher", self.prepared, search=False)
        seconds = self.command(path, "student=null", "objectives={}", "cluster.workers=0")
        shutil.rmtree(self.prepared / "runs")  # its artifact is what stays
        return seconds

    def sweep(self, slots: int) -> dict[str, Any]:
        """One command for all trials, on `slots` slots."""
        store = self.store(f"sweep-{slots}")
        path = self.file(f"sweep-{slots}", store, search=True)
        wall = self.command(path, f"search.concurrent={slots}", "cluster.cpus_per_worker=1")
        (record,) = records(store)
        trials = record["search"]["trials"]
        if any(trial["state"] != "done" or trial["epochs"] != self.args.epochs for trial in trials):
            raise SystemExit(f"not every trial of the sweep on {slots} slots trained to its end")
        stages = [stage_of(Path(trial["artifact"].removeprefix("file://"))) for trial in trials]
        return {
            "slots": slots,
            "wall_s": wall,
            "trials_wall_s": record["search"]["wall_s"],
            "changes": [trial["changes"] for trial in trials],
            "trial_s": [stage["wall_s"] for stage in stages],
            "train_s": [stage["train_s"] for stage in stages],
            "teachers_computed": computed([record]),
        }

    def loop(self, name: str, changes: list[dict[str, Any]]) -> dict[str, Any]:
        """A command for each trial."""
        store = self.store(name)
        path = self.file(name, store, search=False)
        walls = []
        for number, change in enumerate(changes):
            sets = [f"{key}={value}" for key, value in change.items()]
            walls.append(self.command(path, f"cluster.workers={LOOPS[name]}", *sets))
            said(f"  {name} {number + 1}/{len(changes)}: {walls[-1]:.1f} s")
        found = records(store)
        stages = [record["stages"][-1] for record in found]
        if len(stages) != len(changes):
            raise SystemExit(f"{name} left {len(stages)} records of {len(changes)} trials")
        return {
            "wall_s": sum(walls),
            "command_s": walls,
            "trial_s": [stage["wall_s"] for stage in stages],
            "train_s": [stage["train_s"] for stage in stages],
            "teachers_computed": computed(found),
        }

    def starts(self) -> dict[str, Any]:
        """The ways to run a trial, compared by a process of their own."""
        path = self.file("starts", self.store("starts"), search=True)
        command = [sys.executable, str(HERE / "search_starts.py"), str(path), str(self.args.starts)]
        done = subprocess.run([*command, *self.args.set], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"search_starts.py ended with {done.returncode}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def records(store: Path) -> list[dict[str, Any]]:
    """The records of the runs of a store, first run first."""
    found = [json.loads(path.read_text()) for path in store.glob("runs/*/record.json")]
    return sorted(found, key=lambda each: each["started"])


def stage_of(artifact: Path) -> dict[str, Any]:
    """The record of a stage."""
    record: dict[str, Any] = json.loads((artifact / "record.json").read_text())
    return record


def computed(found: list[dict[str, Any]]) -> int:
    """How many times the runs of these records computed a teacher."""
    return sum(not stage["reused"] for record in found for stage in record["stages"] if stage["stage"] == "teacher")


def said(text: str) -> None:
    """Tell how far it has come."""
    print(text, flush=True)


def derived(arm: dict[str, Any]) -> dict[str, float]:
    """Efficiency of a sweep, and the seconds of a slot that each trial costs beside its training, and beside itself."""
    slot_s, trials = arm["wall_s"] * arm["slots"], len(arm["train_s"])
    return {
        "efficiency": sum(arm["train_s"]) / slot_s,
        "efficiency_trials": sum(arm["trial_s"]) / slot_s,
        "overhead_s": (slot_s - sum(arm["train_s"])) / trials,
        "overhead_trials_s": (slot_s - sum(arm["trial_s"])) / trials,
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All arms, and their ratios."""
    with tempfile.TemporaryDirectory(prefix="kdray-bench-") as folder:
        bench = Bench(args, Path(folder))
        said("the teacher")
        teacher_s = bench.prepare()
        sweeps = {}
        for slots in SLOTS:
            sweeps[str(slots)] = found = bench.sweep(slots)
            found |= derived(found)
            trained = statistics.mean(found["train_s"])
            beside = f"a trial trains {trained:.1f} s and costs {found['overhead_s']:.1f} s beside that"
            said(f"sweep, {slots} at a time: {found['wall_s']:.1f} s; {beside}")
        changes = sweeps[str(SLOTS[-1])]["changes"]
        loops = {}
        for name in LOOPS:
            loops[name] = bench.loop(name, changes)
            said(f"{name}: {loops[name]['wall_s']:.1f} s")
        starts = bench.starts() if args.starts else {}
    walls = {f"sweep, {slots} slots": arm["wall_s"] for slots, arm in sweeps.items()}
    ratios = {f"{loop} / {name}": loops[loop]["wall_s"] / wall for loop in loops for name, wall in walls.items()}
    return {"teacher_s": teacher_s, "sweeps": sweeps, "loops": loops, "starts": starts, "ratios": ratios}


def main() -> None:
    """Measure and write the record."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", help="training shards instead of the digits")
    cli.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="of every experiment")
    cli.add_argument("--trials", type=int, default=8)
    cli.add_argument("--epochs", type=int, default=8)
    cli.add_argument("--starts", type=int, default=3, help="short trials of each way to run one; 0 leaves it out")
    cli.add_argument("--out", type=Path, required=True)
    args = cli.parse_args()
    found = measure(args)
    from kdray.pipeline.record import commit, hardware, now, versions

    settings = {key: getattr(args, key) for key in ("trials", "epochs", "starts", "data", "set")}
    record = {
        "command": "benchmarks/search.py",
        "data": "shards" if args.data else "scikit-learn's handwritten digits",
        "seed": 0,
        "when": now(),
        "commit": commit(),
        "settings": settings,
        "hardware": hardware(),
        "versions": versions(),
        **found,
    }
    part = args.out.with_name(args.out.name + ".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(part, args.out)
    print(json.dumps(record["ratios"], indent=1))


if __name__ == "__main__":
    main()
