"""What running many trials costs beside the trials: they report three epochs each and do nothing else.

    python benchmarks/search_scale.py --out benchmarks/records/search-scale.json
    python benchmarks/table.py search_scale

Each count of trials is a sweep of its own, in a process and a Ray cluster of its own: TPE over six parameters, ASHA,
16 trials at a time, processes reused, the view of a job's log. Nobody is stopped early, so that the work is equal. The
driver is looked at from outside (Ray's own processes are not); then another process takes the journal as a resumed
search does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdray.errors import KdrayError
from kdray.experiment import Cluster
from kdray.tune.work import Work

EPOCHS, STEP = 3, 100
CPUS = 0.01  # of a trial: as many as are asked for run at a time, on any machine
FOLDER = "search"
POLL_S, LOOK_S = 0.2, 5.0
SPACE = {
    "objectives.kd.weight": "uniform(0.1, 2)",
    "objectives.kd.temperature": "choice(2, 4, 8)",
    "train.optimizer.lr": "loguniform(0.01, 0.3)",
    "train.optimizer.weight_decay": "loguniform(0.00001, 0.001)",
    "student.params.width": "choice(0.25, 0.5, 1)",
    "train.epochs": "int(1, 8)",
}


@dataclass(frozen=True, kw_only=True)
class Nothing(Work):
    """Trials that report and do nothing, once as many `processes` are there as run at a time: `there` is a folder of
    theirs. One would be through with many trials before the next had started."""

    there: Path
    processes: int

    def stage(self, config: Mapping[str, Any]) -> Any:
        raise KdrayError("trials that do nothing have no stage")

    def run(self, config: Mapping[str, Any], run: Any) -> dict[str, Any]:
        run.max_epochs = EPOCHS
        (self.there / str(os.getpid())).touch()
        while len(os.listdir(self.there)) < self.processes:
            time.sleep(POLL_S)
        rows = []
        for epoch in range(1, EPOCHS + 1):
            value = (int(config["number"]) * 37 % 101 + epoch) / 110
            rows.append({"epoch": epoch, "val/top1": value, "val/nll": 1 - value, "loss/total": 2.0, "seconds": 0.0})
            run.event("epoch", rows[-1])
        return {"history": rows}


class Timed:
    """A sampler whose calls are timed."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.ask_s: list[float] = []
        self.tell_s: list[float] = []

    def ask(self, number: int) -> Any:
        began = time.perf_counter()
        trial = self.sampler.ask(number)
        self.ask_s.append(time.perf_counter() - began)
        return trial

    def tell(self, trial: dict[str, Any]) -> None:
        began = time.perf_counter()
        self.sampler.tell(trial)
        self.tell_s.append(time.perf_counter() - began)

    def resume(self, trial: dict[str, Any]) -> None:
        self.sampler.resume(trial)


class Quiet:
    """A listener that nothing is told."""

    def event(self, kind: str, values: dict[str, Any]) -> None: ...

    def stop_requested(self) -> bool:
        return False


def asked() -> tuple[Any, Any, Any, Any]:
    """Goal, searcher, scheduler and space of the search."""
    from kdray.experiment.search_part import Search
    from kdray.tune.trials import Goal

    search = Search.model_validate(
        {"space": SPACE, "searcher": {"type": "tpe"}, "scheduler": {"type": "asha", "grace_epochs": EPOCHS}}
    )
    return Goal(search.metric, search.mode), search.searcher, search.scheduler, search.own_space


def sweep(trials: int, concurrent: int, folder: str) -> dict[str, Any]:
    """Run the sweep in this process, and say what its trials cost, hundred by hundred."""
    from kdray.train.cluster import connect_in_background

    cluster = Cluster(workers=1, gpus_per_worker=0)
    connected = connect_in_background(cluster)
    from rich.console import Console

    from kdray.report.sweep_view import SweepView
    from kdray.store import Store
    from kdray.train.shares import Shares
    from kdray.tune.journal import Journal
    from kdray.tune.samplers import make_sampler
    from kdray.tune.schedule import make_scheduler
    from kdray.tune.slots import Slots
    from kdray.tune.sweep import Sweep

    goal, searcher, scheduler, space = asked()
    connected()
    store, shares = Store(folder), Shares(CPUS, 0.0)
    there = Path(folder, "processes")
    there.mkdir()
    sampler = Timed(make_sampler(searcher, space, 0, goal))
    journal = Journal(store, FOLDER)
    ends: list[tuple[float, float]] = []
    before_kib = rss_kib(os.getpid())
    print(json.dumps({"rss_kib": before_kib}), flush=True)
    began, cpu = time.perf_counter(), time.process_time()

    def on_end(trial: dict[str, Any]) -> None:
        ends.append((time.perf_counter() - began, time.process_time() - cpu))
        if len(ends) % STEP == 0:
            print(f"{len(ends)} of {trials} trials, {ends[-1][0]:.0f} s", file=sys.stderr, flush=True)

    with (
        open(os.devnull, "w") as nowhere,
        SweepView(Console(file=nowhere), goal.metric, goal.mode, trials, EPOCHS) as view,
    ):
        done = Sweep(
            work=Nothing(
                goal=goal, cluster=cluster, shares=shares, seen_by={}, there=there, processes=min(concurrent, trials)
            ),
            goal=goal,
            sampler=sampler,
            slots=Slots(cluster, shares, concurrent, most=trials),
            journal=journal,
            store=store,
            folder=FOLDER,
            known=[],
            view=view,
            listener=Quiet(),
            wanted=trials,
            scheduler=make_scheduler(scheduler, goal.mode, EPOCHS),
            on_end=on_end,
        ).run()
    journal.close()
    wall_s, rss = time.perf_counter() - began, rss_kib(os.getpid())
    bad = [trial for trial in done if trial["state"] != "done" or trial["epochs"] != EPOCHS]
    if len(done) != trials or bad:
        raise SystemExit(f"{len(done)} of {trials} trials, {len(bad)} did not end well: {bad[:1]}")
    first_s = ends[0][0]
    hundreds = [(ends[0], ends[min(STEP, trials) - 1])]
    hundreds += [(ends[at - 1], ends[at + STEP - 1]) for at in range(STEP, trials - STEP + 1, STEP)]
    return {
        "trials": trials,
        "wall_s": wall_s,
        "first_end_s": first_s,
        "s_per_trial": (ends[-1][0] - first_s) / max(1, trials - 1),
        "driver_cpu_s_per_trial": (ends[-1][1] - ends[0][1]) / max(1, trials - 1),
        "last_end_to_return_s": wall_s - ends[-1][0],
        "hundreds_s": [end[0] - start[0] for start, end in hundreds],
        "hundreds_driver_cpu_s": [end[1] - start[1] for start, end in hundreds],
        "ask_ms": [
            1e3 * statistics.mean(sampler.ask_s[at : at + STEP]) for at in range(0, max(STEP, trials - STEP + 1), STEP)
        ],
        "tell_ms": [
            1e3 * statistics.mean(sampler.tell_s[at : at + STEP]) for at in range(0, max(STEP, trials - STEP + 1), STEP)
        ],
        "rss_growth_mb": (rss - before_kib) * 1024 / 1e6,
        "processes": len(os.listdir(there)),
    }


def resume(folder: str) -> dict[str, float]:
    """Seconds until a search that goes on would ask for its next trial, when all is imported; and of that asking."""
    from kdray.store import Store
    from kdray.tune.journal import Journal
    from kdray.tune.samplers import make_sampler
    from kdray.tune.schedule import make_scheduler, remember

    goal, searcher, scheduler, space = asked()
    make_sampler(searcher, space, 0, goal).ask(0)  # Optuna imports TPE when it is first asked
    marks = [time.perf_counter()]
    known = Journal(Store(folder), FOLDER).load()
    marks.append(time.perf_counter())
    sampler = make_sampler(searcher, space, 0, goal)
    for trial in known:
        sampler.tell(trial)
    marks.append(time.perf_counter())
    remember(make_scheduler(scheduler, goal.mode, EPOCHS), known, [], goal.metric)
    marks.append(time.perf_counter())
    sampler.ask(len(known))
    marks.append(time.perf_counter())
    load_s, sampler_s, scheduler_s, ask_s = (end - start for start, end in itertools.pairwise(marks))
    total = {"resume_s": marks[3] - marks[0]}
    return total | {"load_s": load_s, "sampler_s": sampler_s, "scheduler_s": scheduler_s, "first_ask_s": ask_s}


def rss_kib(process: int) -> int:
    """Resident memory of a process; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def size(folder: Path) -> tuple[int, int]:
    """Bytes and files below `folder`, which may change meanwhile."""
    total, files = 0, 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total, files = total + os.stat(os.path.join(where, name)).st_size, files + 1
            except FileNotFoundError:
                continue
    return total, files


def scratches() -> list[Path]:
    """Where Ray Tune keeps its own state while a sweep runs."""
    return list(Path(tempfile.gettempdir()).glob("kdray-tune-*"))


def measure(trials: int, concurrent: int) -> dict[str, Any]:
    """One sweep, looked at from outside, and a resume from what it left."""
    with tempfile.TemporaryDirectory(prefix="kdray-bench-") as folder:
        root, out = Path(folder, FOLDER), Path(folder, "out")
        common = [sys.executable, __file__, "--concurrent", str(concurrent), "--folder", folder]
        peak, tune, look_s = 0, (0, 0), 0.0
        others = set(scratches())
        with out.open("w") as printed:
            process = subprocess.Popen([*common, "--sweep", str(trials)], stdout=printed)
        while process.poll() is None:
            time.sleep(POLL_S)
            peak = max(peak, rss_kib(process.pid))
            if time.monotonic() > look_s:
                parts = [size(each) for each in scratches() if each not in others]
                tune = max([tune, *parts])
                look_s = time.monotonic() + LOOK_S
        if process.returncode:
            raise SystemExit(f"the sweep of {trials} trials ended with {process.returncode}")
        first, *_, last = (line for line in out.read_text().splitlines() if line.startswith("{"))  # Ray prints too
        found = json.loads(last)
        found["peak_rss_growth_mb"] = max(0, peak - json.loads(first)["rss_kib"]) * 1024 / 1e6
        journal_bytes, journal_files = size(root / "trials")
        found |= {"journal_bytes": journal_bytes, "journal_files": journal_files}
        found |= {"tune_bytes": tune[0], "tune_files": tune[1]}
        again = subprocess.run([*common, "--resume"], check=True, capture_output=True, text=True).stdout
        return found | json.loads(again.splitlines()[-1])


def main() -> None:
    """Measure all counts and write the record."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--trials", type=lambda text: [int(part) for part in text.split(",")], default=[100, 1000])
    cli.add_argument("--concurrent", type=int, default=16)
    cli.add_argument("--out", type=Path)
    for internal in ("--sweep", "--folder"):
        cli.add_argument(internal, help=argparse.SUPPRESS)
    cli.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    args = cli.parse_args()
    if args.sweep or args.resume:
        found = resume(args.folder) if args.resume else sweep(int(args.sweep), args.concurrent, args.folder)
        print(json.dumps(found), flush=True)
        return
    if args.out is None:
        cli.error("--out is needed")
    from kdray.pipeline.record import commit, hardware, now, versions

    sweeps = []
    for trials in args.trials:
        sweeps.append(measure(trials, args.concurrent))
        print(f"{trials} trials: {sweeps[-1]['s_per_trial']:.3f} s each, resumed in {sweeps[-1]['resume_s']:.2f} s")
    record = {
        "command": "benchmarks/search_scale.py",
        "data": "none: trials report and do nothing else",
        "seed": 0,
        "when": now(),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "concurrent": args.concurrent,
        "epochs": EPOCHS,
        "space": SPACE,
        "sweeps": sweeps,
    }
    part = args.out.with_name(args.out.name + ".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(part, args.out)


if __name__ == "__main__":
    main()
