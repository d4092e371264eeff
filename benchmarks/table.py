"""The tables of the docs, drawn from the committed records.

python benchmarks/table.py results                # docs/results.md
python benchmarks/table.py methods                # docs/results.md, every method
python benchmarks/table.py performance            # docs/performance.md
python benchmarks/table.py data                   # docs/performance.md, the data path
python benchmarks/table.py search                 # docs/performance.md, a sweep beside a loop of commands
python benchmarks/table.py search_scale           # docs/performance.md, a thousand trials
python benchmarks/table.py search_results         # docs/search-results.md
python benchmarks/table.py killed_job             # docs/streaming.md
python benchmarks/table.py objectives             # docs/objectives.md
python benchmarks/table.py gradient_relation      # docs/methods/clmkd.md

With `--into PAGE` the tables that stand in that page under the records' names are replaced: search, search_scale and
search_results.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from search_table import search, search_results, search_scale

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


DATA_GOALS = (
    ("original bytes, Ray / DataLoader", "kdray_ray / loader", 1.3),
    ("original bytes, threads / DataLoader", "kdray_threads / loader", 1.3),
    ("original bytes, Ray / Ray Data as documented", "kdray_ray / ray_documented", 3.0),
    ("original bytes, Ray / DataLoader of uint8", "kdray_ray / loader_uint8", 1.3),
    ("packed, Ray / DataLoader on the originals", "kdray_ray_packed / loader", 3.0),
    ("packed, threads / DataLoader on the originals", "kdray_threads_packed / loader", 3.0),
    ("original bytes, Ray / bare", "kdray_ray / bare", 0.75),
    ("original bytes, threads / bare", "kdray_threads / bare", 0.75),
    ("packed, Ray / bare", "kdray_ray_packed / bare_packed", 0.75),
    ("packed, threads / bare", "kdray_threads_packed / bare_packed", 0.75),
    ("S3 / local, Ray", "kdray_ray_s3 / kdray_ray", 0.9),
    ("packed, S3 / local, Ray", "kdray_ray_packed_s3 / kdray_ray_packed", 0.9),
    ("S3 / local, threads", "kdray_threads_s3 / kdray_threads", 0.9),
    ("S3 with 50 ms more a request / local, Ray", "kdray_ray_s3_50ms / kdray_ray", 0.9),
    ("S3 with 50 ms more a request / local, threads", "kdray_threads_s3_50ms / kdray_threads", 0.9),
    ("CPU seconds an image without the server's, local / S3, Ray", "CPU an image: kdray_ray / kdray_ray_s3", 0.9),
    ("start to first batch, Ray / Ray Data as documented", "start to first batch: kdray_ray / ray_documented", -1.5),
)
"""What is held against which goal; a negative goal is one to stay below."""


def data() -> list[str]:
    """The data path: what was aimed at and reached, and the medians of every arm, from the `data-*.json` records."""
    lines: list[str] = []
    for path in sorted(RECORDS.glob("data-*.json")):
        record = json.loads(path.read_text())
        hardware, measured = record["hardware"], record["measured"]
        places = [
            (name, cores)
            for name, by_cores in measured.items()
            for cores, case in by_cores.items()
            if any(case.values())
        ]
        any_row = {name: next(rows[0] for rows in measured[name][cores].values() if rows) for name, cores in places}
        counts = {name: row["images"] / (row["passes"] - 1) for name, row in any_row.items()}
        sizes = ", ".join(f"{name}: {count:,.0f} images a pass" for name, count in counts.items())
        served = f"; S3: {record['server']}" if "server" in record else ""
        lines += [f"`{path.name}`: {hardware['cpu']}, {hardware['cpus']} CPUs, torch {record['versions']['torch']}; "]
        lines[-1] += f"{sizes}{served}"
        lines += ["", "| kdray | goal | " + " | ".join(f"{name}, {_cores(cores)}" for name, cores in places) + " |"]
        lines += ["|---|---|" + "---|" * len(places)]
        for title, key, goal in DATA_GOALS:
            values = [record["ratios"].get(name, {}).get(cores, {}).get(key) for name, cores in places]
            if any(value is not None for value in values):
                bound = f"≥ {goal:g}" if goal > 0 else f"≤ {-goal:g}"
                lines.append(f"| {title} | {bound} | " + " | ".join(_reached(value, goal) for value in values) + " |")
        for name, cores in places:
            lines += ["", f"{name}, {_cores(cores)}:", ""]
            lines += ["| arm | images/s | CPU ms an image | command to first batch, s | epoch to first batch, s | MB |"]
            lines += ["|---|---|---|---|---|---|"]
            for arm, rows in measured[name][cores].items():
                if rows:
                    lines.append(_arm(arm, rows))
        lines.append("")
    return lines


def redraw(page: str, lines: list[str]) -> str:
    """The text of a page with the tables under the record that `lines` begin with replaced by `lines`.

    They end where a line is neither empty nor of a table.
    """
    name = lines[0].partition(":")[0]
    tables = re.compile(rf"^{re.escape(name)}:.*\n(?:(?:\|.*)?\n)*", re.MULTILINE)
    found, count = tables.subn(lambda _: "\n".join(lines).strip() + "\n\n", page)
    if count != 1:
        raise SystemExit(f"the page has {count} lines that begin with {name}:")
    return found


def killed_job() -> list[str]:
    """Jobs that were killed and went on, beside local runs that nobody killed, from the `killed-job-*.json` records."""
    heads = ("data", "stage", "steps", "went on from", "tensors", "with other bits", "top-1, %", "local run")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for path in sorted(RECORDS.glob("killed-job-*.json")):
        record = json.loads(path.read_text())
        for stage in ("teacher", "student"):
            found = record[stage]
            differ = found["tensors_that_differ"]
            trained = [str(found["tensors"]), differ if isinstance(differ, str) else str(len(differ))]
            accuracies = [f"{100 * found[key]['top1']:.2f}" for key in ("test", "test_of_the_local_run")]
            cells = [record["data"], stage, str(found["steps"] or "given"), str(found["resumed_from"] or "")]
            cells += trained if found["steps"] else ["", ""]
            lines.append("| " + " | ".join([*cells, *accuracies]) + " |")
    return lines


def _arm(name: str, rows: list[dict[str, Any]]) -> str:
    cpu = f"{1e3 * _median(rows, 'cpu_s_per_image'):.2f}"
    server = 1e3 * _median(rows, "server_cpu_s_per_image")
    cells = [f"{_median(rows, 'images_per_s'):.0f}", cpu + (f" (server {server:.2f})" if server else "")]
    cells += [f"{_median(rows, 'command_to_first_batch_s'):.1f}", f"{_median(rows, 'first_batch_s'):.2f}"]
    return f"| {name} | " + " | ".join([*cells, f"{_median(rows, 'peak_pss_mb'):.0f}"]) + " |"


def _median(rows: list[dict[str, Any]], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def _cores(number: str) -> str:
    return f"{number} core" if number == "1" else f"{number} cores"


def _reached(value: float | None, goal: float) -> str:
    if value is None:
        return ""
    met = value >= goal if goal > 0 else value <= -goal
    return f"{value:.2f}" if met else f"{value:.2f}, missed"


TABLES = {
    "results": results,
    "methods": methods,
    "performance": performance,
    "data": data,
    "search": search,
    "search_scale": search_scale,
    "search_results": search_results,
    "killed_job": killed_job,
    "objectives": objectives,
    "gradient_relation": gradient_relation,
}


def main() -> None:
    """Print tables, or put them into a page."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("table", nargs="+", choices=tuple(TABLES))
    cli.add_argument("--into", type=Path, metavar="PAGE")
    args = cli.parse_args()
    for name in args.table:
        lines = TABLES[name]()
        if args.into is None:
            print("\n".join(lines))
        else:
            args.into.write_text(redraw(args.into.read_text(), lines))


if __name__ == "__main__":
    main()
