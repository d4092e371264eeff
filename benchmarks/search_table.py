"""The tables of docs/performance.md about searches; `table.py` prints them and puts them there."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from kdray.report.matrix_table import markdown

RECORDS = Path(__file__).parent / "records"
ARMS = {"loop_ray": "a command a trial, Ray", "loop_process": "a command a trial, without Ray"}
FASTER, BESIDE_S = 1.5, 8.0  # goals: of loop / sweep; of a trial's seconds beside its training
SCALE = (
    ("processes that ran trials", "processes", 1.0, 0),
    ("seconds a trial", "s_per_trial", 1.0, 3),
    ("driver's CPU ms a trial", "driver_cpu_s_per_trial", 1e3, 0),
    ("driver's memory: growth at the end, MB", "rss_growth_mb", 1.0, 0),
    ("driver's memory: largest growth, MB", "peak_rss_growth_mb", 1.0, 0),
    ("journal, kB", "journal_bytes", 1e-3, 0),
    ("journal, files", "journal_files", 1.0, 0),
    ("seconds from the last trial's end to the sweep's", "last_end_to_return_s", 1.0, 1),
    ("ms to ask the sampler, last hundred", "ask_ms", 1.0, 0),
    ("seconds to resume", "resume_s", 1.0, 2),
    ("seconds to resume: reading the journal", "load_s", 1.0, 2),
    ("seconds to resume: telling TPE", "sampler_s", 1.0, 2),
    ("seconds to resume: telling ASHA", "scheduler_s", 1.0, 2),
)
"""What is shown of each sweep: title, key, factor, digits."""


def search(records: Path = RECORDS) -> list[str]:
    """A sweep beside the same trials run by hand, and the ways to run a trial."""
    path = records / "search-cpu.json"
    record = json.loads(path.read_text())
    settings = record["settings"]
    rows = [(_sweep(slots), arm) for slots, arm in record["sweeps"].items()]
    rows += [(ARMS[name], arm) for name, arm in record["loops"].items()]
    return [
        f"{_measured(path, record)}; {settings['trials']} trials of {settings['epochs']} epochs, {record['data']}",
        "",
        "| | wall clock, s | training, s | share of the slots' time | s a trial beside training | "
        "of those, in the trials' time | of those, the command's |",
        "|---|---|---|---|---|---|---|",
        *(f"| {title} | {_cost(arm)} |" for title, arm in rows),
        "",
        *_goals(record, sum(arm["teachers_computed"] for _, arm in rows)),
        *_ways(record["starts"]),
    ]


def _sweep(slots: str) -> str:
    return f"sweep, {slots} slot" + "s" * (slots != "1")


def _cost(arm: dict[str, Any]) -> str:
    slot_s, trained = arm["wall_s"] * arm.get("slots", 1), sum(arm["train_s"])
    within, before = _beside(arm)
    parts = f"{within + before:.1f} | {within:.1f} | {before:.1f}"
    return f"{arm['wall_s']:.0f} | {trained:.0f} | {trained / slot_s:.2f} | {parts}"


def _beside(arm: dict[str, Any]) -> tuple[float, float]:
    """Seconds of a slot that a trial costs beside its training: while trials run, and while the command starts and
    reports. A sweep's slots wait together, a loop has a command for each trial."""
    slots, trials = arm.get("slots", 1), len(arm["train_s"])
    ran_s = arm["trials_wall_s"] if "slots" in arm else sum(arm["trial_s"])
    return (slots * ran_s - sum(arm["train_s"])) / trials, slots * (arm["wall_s"] - ran_s) / trials


def _goals(record: dict[str, Any], computed: int) -> list[str]:
    lines = ["| figure | goal | reached |", "|---|---|---|"]
    for name, title in ARMS.items():
        ratio = record["ratios"][f"{name} / sweep, 2 slots"]
        reached = f"{ratio:.2f}" + ", missed" * (ratio < FASTER)
        lines.append(f"| wall clock: {title} / sweep, 2 slots | ≥ {FASTER:g} | {reached} |")
    within, before = _beside(record["sweeps"]["2"])
    for seconds, title in ((within, "in the trials' time"), (within + before, "in all")):
        reached = f"{seconds:.1f}" + ", missed" * (seconds > BESIDE_S)
        lines.append(f"| sweep, 2 slots: s a trial beside training, {title} | ≤ {BESIDE_S:g} | {reached} |")
    return [*lines, f"| teachers computed in all of them, where one was there | 0 | {computed} |"]


def _ways(starts: dict[str, Any]) -> list[str]:
    if not starts:
        return []
    lines = ["", "| a trial runs in | first one: s to its first step | later ones | s beside training |"]
    lines.append("|---|---|---|---|")
    for way, found in starts.items():
        steps, beside = found["first_step_s"], found["beside_s"]
        later = f"{statistics.median(steps[1:]):.1f} | {statistics.median(beside[1:]):.1f}"
        lines.append(f"| {way} | {steps[0]:.1f} | {later} |")
    return lines


def search_scale(records: Path = RECORDS) -> list[str]:
    """What many trials cost beside the trials."""
    path = records / "search-scale.json"
    record = json.loads(path.read_text())
    sweeps, last = record["sweeps"], record["sweeps"][-1]
    heads = " | ".join(f"{sweep['trials']:,} trials" for sweep in sweeps)
    hundreds = zip(last["hundreds_s"], last["hundreds_driver_cpu_s"], last["ask_ms"], strict=True)
    return [
        f"{_measured(path, record)}; {record['concurrent']} trials at a time, {record['epochs']} epochs each",
        "",
        f"| figure | {heads} | times |",
        "|---|" + "---|" * (len(sweeps) + 1),
        *(_grown(title, [_last(sweep[key]) for sweep in sweeps], *form) for title, key, *form in SCALE),
        "",
        f"| hundred of the {last['trials']:,} | seconds | driver's CPU seconds | ms to ask the sampler |",
        "|---|---|---|---|",
        *(f"| {number} | {s:.1f} | {cpu:.1f} | {ms:.0f} |" for number, (s, cpu, ms) in enumerate(hundreds, 1)),
    ]


def search_results(records: Path = RECORDS) -> list[str]:
    """What the searches of experiments/cifar100_search_*.yaml found, and what it is worth on test beside defaults."""
    path = records / "cifar100_search_compared.json"
    record = json.loads(path.read_text())
    lines = [_measured(path, record), "", *_searches(records), ""]
    return lines + [line for line in markdown(record).splitlines() if line.startswith("| ")]


def _searches(records: Path) -> list[str]:
    heads = ("search", "trials", "stopped early", "epochs", "minutes", "best on validation", "median of whole trials")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in ("cifar100_search_clmkd", "cifar100_search_mcld"):
        found = json.loads((records / f"{name}.json").read_text())["search"]
        trials = found["trials"]
        whole = statistics.median(trial["value"] for trial in trials if trial["state"] == "done")
        epochs = sum(trial["epochs"] for trial in trials)
        cells = [name, len(trials), sum(trial["state"] == "stopped" for trial in trials)]
        cells += [f"{epochs} of {len(trials) * found['max_epochs']}", f"{found['wall_s'] / 60:.0f}"]
        cells += [f"{100 * trials[found['best']]['value']:.2f} (trial {found['best']})", f"{100 * whole:.2f}"]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return lines


def _last(value: Any) -> float:
    return float(value[-1] if isinstance(value, list) else value)


def _grown(title: str, values: list[float], scale: Any, digits: Any) -> str:
    times = f"{values[-1] / values[0]:.1f}" if values[0] else ""
    return f"| {title} | " + " | ".join(f"{scale * value:,.{digits}f}" for value in values) + f" | {times} |"


def _measured(path: Path, record: dict[str, Any]) -> str:
    hardware, versions = record["hardware"], record["versions"]
    return (
        f"`{path.name}`: {hardware['cpu']}, {hardware['cpus']} CPUs, torch {versions['torch']}, Ray {versions['ray']}"
    )
