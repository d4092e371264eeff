"""The table that compares the variants of a run: a row for each."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from kdray.report.text import duration, percent

COLUMNS = ("variant", "teacher", "student", "method", "test last", "test best-on-val", "images/s", "wall")
NAMES = 4  # columns of names, which may wrap; numbers never do


def students(record: dict[str, Any]) -> set[str]:
    """Names of the stages that are a variant's student."""
    return {name for one in record.get("variants", {}).values() if (name := one["stages"].get("student"))}


def comparison_rows(record: dict[str, Any]) -> list[dict[str, str]]:
    """One row of ready text per variant of a run's record, in the order of `COLUMNS`.

    A variant without a student is its teacher. What is not done yet has dashes.
    """
    stages = {stage["stage"]: stage for stage in record["stages"]}
    seeds = {one["seed"] for one in record["variants"].values()}
    rows = []
    for name, one in record["variants"].items():
        names = one["stages"]
        stage = stages.get(names.get("student") or names.get("teacher"))
        trained = stage is not None and bool(stage["epochs"])
        cells = [
            name + (f" (seed {one['seed']})" if len(seeds) > 1 else ""),
            _teacher(stages.get(names.get("teacher")), stage),
            "-" if stage is None or "student" not in names else stage["model"],
            "-" if stage is None else method(stage["made_of"]["objectives"]),
            percent(stage and stage.get("test")),
            percent(stage and stage.get("test_best")),
            f"{stage['images_per_s']:.0f}" if stage is not None and trained else "-",
            duration(stage["wall_s"]) if stage is not None else "-",
        ]
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def method(objectives: dict[str, Any]) -> str:
    """Objectives in a few words: their names, with the weights that are not a method's default."""
    parts = [f"{params['weight']:g} {name}" if "weight" in params else name for name, params in objectives.items()]
    return " + ".join(parts) or "-"


def _teacher(teacher: dict[str, Any] | None, student: dict[str, Any] | None) -> str:
    """The teacher with its accuracy; where no stage judged it, its model alone."""
    if teacher is not None:
        name = "" if teacher["stage"] == "teacher" else f"{teacher['stage']}: "
        accuracy = f" {percent(teacher['test'])}" if teacher.get("test") else ""
        return f"{name}{teacher['model']}{accuracy}"
    taught_by = student["made_of"].get("teacher") if student is not None else None
    return taught_by["model"]["model"] if taught_by else "-"


def comparison_table(record: dict[str, Any]) -> Table:
    """The table of `comparison_rows`."""
    table = Table(title=escape(f"{record['name']}: variants"), title_justify="left")
    for number, column in enumerate(COLUMNS):
        name = number < NAMES
        table.add_column(column, justify="left" if name else "right", no_wrap=not name, overflow="fold")
    for row in comparison_rows(record):
        table.add_row(*map(escape, row.values()))
    return table
