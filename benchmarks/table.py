"""The tables of the docs, drawn from the committed records.

python benchmarks/table.py results                # docs/results.md
python benchmarks/table.py methods                # docs/results.md, every method
python benchmarks/table.py performance            # docs/performance.md
python benchmarks/table.py objectives             # docs/objectives.md
python benchmarks/table.py gradient_relation      # docs/methods/clmkd.md
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


def objectives() -> list[str]:
    """Time, memory and state of every method's step, at both shapes, from the `objectives-*.json` records."""
    records = {path.name: json.loads(path.read_text()) for path in sorted(RECORDS.glob("objectives-*.json"))}
    lines = []
    for name, record in records.items():
        sizes, cpu = record["sizes"], record["hardware"]["cpu"]
        shape = f"B = {sizes['batch']}, C = {sizes['classes']}, d = {sizes['width']}, N = {sizes['samples']:,}"
        where = f"{cpu}, {record['threads']} thread" if record["device"] == "cpu" else record["hardware"]["gpus"][0]
        lines += [f"`{name}`: {shape}; {where}, torch {record['versions']['torch']}", ""]
        lines += ["| method | views | ms | x `kd` | peak MB | state MB | parameters |", "|---|---|---|---|---|---|---|"]
        lines += [_cost(method, row) for method, row in record["rows"].items()]
        lines.append("")
    return lines


def methods() -> list[str]:
    """Every method on CIFAR-100, the sampled budget: all seeds of the `cifar100_methods-*.json` records."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(RECORDS.glob("cifar100_methods-*.json")):
        record = json.loads(path.read_text())
        stages = {stage["stage"]: stage for stage in record["stages"]}
        for name, variant in record["variants"].items():
            found.setdefault(name, {})[variant["seed"]] = stages[variant["stages"]["student"]]
    if not found:
        return []
    alone = statistics.mean(100 * stage["test"]["top1"] for stage in found["ce"].values())
    lines = [
        "| variant | objectives | views | seeds | top-1, last epoch | mean | above CE |",
        "|---|---|---|---|---|---|---|",
    ]

    def mean(seeds: dict[int, dict[str, Any]]) -> float:
        return statistics.mean(100 * stage["test"]["top1"] for stage in seeds.values())

    for name, seeds in sorted(found.items(), key=lambda item: -mean(item[1])):
        made_of = next(iter(seeds.values()))["made_of"]
        values = ", ".join(f"{100 * seeds[seed]['test']['top1']:.2f}" for seed in sorted(seeds))
        objectives = " + ".join(
            (f"{params['weight']:g} " if "weight" in params else "") + f"`{method}`"
            for method, params in made_of["objectives"].items()
        )
        cells = [f"{made_of['data'].get('views', 1)}", str(len(seeds)), values, f"{mean(seeds):.2f}"]
        lines.append(f"| {name} | {objectives} | " + " | ".join(cells) + f" | {mean(seeds) - alone:+.2f} |")
    return lines


def _cost(method: str, row: dict[str, Any]) -> str:
    name, _, form = method.partition(", ")
    if "needs_more_than_gib" in row:
        return f"| `{name}` | | needs more than {row['needs_more_than_gib']:g} GiB | | | | |"
    peak = "?" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.1f}"
    cells = [f"{row['ms']:.2f}", f"{row['ratio_to_kd']:.1f}", peak, f"{row['state_bytes'] / 1e6:.1f}"]
    label = f"`{name}`" + (f" ({form})" if form else "")
    return f"| {label} | {row['views']} | " + " | ".join(cells) + f" | {row['parameters']:,} |"


def gradient_relation() -> list[str]:
    """CLMKD on CIFAR-100 with each form of its gradient relation, from the `gradient_relation-*.json` records."""
    titles = {
        "none": "without the module",
        "plain": "`source: gradient, negatives: different_class`",
        "nt4_all": "`source: gradient, target: non_target, gradient_temperature: 4`",
        "feat_all": "`source: feature`",
        "both_nt4_all": "`source: both, target: non_target, gradient_temperature: 4`",
        "both_all": "`source: both` (default)",
    }
    lines = ["| form | seed | validation, best epoch | test, last epoch |", "|---|---|---|---|"]
    for form, title in titles.items():
        for path in sorted(RECORDS.glob(f"gradient_relation-{form}-*.json")):
            record = json.loads(path.read_text())
            student = record["stages"][-1]
            best = max(row["val/top1"] for row in student["history"])
            lines.append(f"| {title} | {record['seed']} | {100 * best:.2f} | {100 * student['test']['top1']:.2f} |")
    return lines


TABLES = {
    "results": results,
    "methods": methods,
    "performance": performance,
    "objectives": objectives,
    "gradient_relation": gradient_relation,
}


def main() -> None:
    """Print one table."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("table", choices=tuple(TABLES))
    print("\n".join(TABLES[cli.parse_args().table]()))


if __name__ == "__main__":
    main()
