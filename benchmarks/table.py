"""The tables of docs/results.md and docs/performance.md, drawn from the committed records.

python benchmarks/table.py results
python benchmarks/table.py performance
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parent / "records"


def results() -> list[str]:
    """CIFAR-100, the short recipe: test top-1 of the last epoch by method, all seeds."""
    found: dict[str, dict[int, tuple[float, dict[str, Any]]]] = {}
    for path in sorted(RECORDS.glob("cifar100_short-*.json")):
        record = json.loads(path.read_text())
        for stage in record["stages"]:
            if stage["stage"] == "teacher":
                continue
            method = "CE alone" if stage["stage"] == "student_alone" else _method(stage)
            found.setdefault(method, {})[record["seed"]] = (100 * stage["test"]["top1"], stage)
    seeds = sorted({seed for rows in found.values() for seed in rows})
    lines = [
        "| objective | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | test NLL | train loss |",
        "|---|" + "---|" * (len(seeds) + 3),
    ]
    for method, rows in sorted(found.items(), key=lambda item: (item[0] != "CE alone", item[0] != "CE + KD", item[0])):
        values = [rows[seed][0] for seed in seeds]
        nll = statistics.mean(rows[seed][1]["test"]["nll"] for seed in seeds)
        loss = statistics.mean(rows[seed][1]["history"][-1]["loss/total"] for seed in seeds)
        cells = [
            *(f"{value:.2f}" for value in values),
            f"**{statistics.mean(values):.2f}**",
            f"{nll:.3f}",
            f"{loss:.2f}",
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def _method(stage: dict[str, Any]) -> str:
    return " + ".join(name.upper() for name in stage["made_of"]["objectives"])


def performance() -> list[str]:
    """The ratios of every `train-*.json` record."""
    lines = []
    for path in sorted(RECORDS.glob("train-*.json")):
        record = json.loads(path.read_text())
        hardware = record["hardware"]
        lines += [f"`{path.name}`: {hardware['cpu']}, {hardware['cpus']} CPUs, torch {record['versions']['torch']}", ""]
        lines += ["| figure | median |", "|---|---|"]
        lines += [f"| {name} | {value:.2f} |" for name, value in record["ratios"].items()]
        lines.append("")
        lines += ["| arm | images/s by round |", "|---|---|"]
        for name, values in record["images_per_s"].items():
            lines.append(f"| {name} | {', '.join(f'{value:.0f}' for value in values)} |")
        for name, values in record["first_step_s"].items():
            lines.append(f"| {name.removesuffix('_s')}, seconds | {', '.join(f'{value:.1f}' for value in values)} |")
    return lines


def main() -> None:
    """Print one table."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("table", choices=("results", "performance"))
    print("\n".join(results() if cli.parse_args().table == "results" else performance()))


if __name__ == "__main__":
    main()
