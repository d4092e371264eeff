"""The table that ends a run."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdray.experiment import Mix
from kdray.report.balance_text import balance_remark
from kdray.report.comparison import comparison_table, students
from kdray.report.matrix_table import print_matrix
from kdray.report.search_table import print_search
from kdray.report.text import duration, percent, phase_text

COLUMNS = (
    "model",
    "test last",
    "test best-on-val",
    "val best",
    "epochs",
    "images/s",
    "data wait",
    "wall",
)


def summary_rows(record: dict[str, Any]) -> list[dict[str, str]]:
    """One row of ready text per stage of a run's record, in the order of `COLUMNS`.

    Students of variants are left out: they have a table of their own.
    """
    rows = []
    own = students(record)
    for stage in record["stages"]:
        if stage.get("stage") in own:
            continue
        trained = bool(stage["epochs"])
        history = stage.get("history") or []
        best = stage.get("best_epoch")
        validation = _validation(stage, history, best)
        rows.append(
            dict(
                zip(
                    COLUMNS,
                    (
                        f"{stage['title']}: {stage['model']}" + (" (reused)" if stage["reused"] else ""),
                        percent(stage.get("test")),
                        percent(stage.get("test_best")) + (f" (epoch {best})" if best else ""),
                        percent(validation),
                        str(stage["epochs"]) if trained else "-",
                        f"{stage['images_per_s']:.0f}" if trained else "-",
                        f"{100 * stage['data_wait']:.1f} %" if trained else "-",
                        duration(stage["wall_s"]),
                    ),
                    strict=True,
                )
            )
        )
    return rows


def print_summary(record: dict[str, Any], console: Console) -> None:
    """Print the table of a finished run, what needs saying about it, and where its artifacts lie."""
    own = students(record)
    seeds = {stage.get("seed", record["seed"]) for stage in record["stages"] if stage.get("stage") not in own}
    title = f"{record['name']} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))})"
    rows = [list(row.values()) for row in summary_rows(record)]
    if rows:
        table = _table(title, list(COLUMNS), rows)
        width = 1 + sum(3 + max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True))
        if width > console.width:
            # A narrow terminal: a column for each of the few models, whose names may wrap, reads better than cuts.
            turned = [list(line) for line in zip(COLUMNS, *rows, strict=True)]
            table = _table(title, ["", *(row[0].replace(": ", "\n", 1) for row in rows)], turned[1:])
        console.print(table)
    for line in remarks(record):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if record.get("search"):
        print_search(record, console)
    if record.get("matrix"):
        print_matrix(record, console)
    elif record.get("variants"):
        console.print(comparison_table(record))


def _table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if number == 0 else "right", no_wrap="\n" not in column)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def remarks(record: dict[str, Any]) -> list[str]:
    """What the table cannot say: skipped and dropped images, interruptions, and where everything lies."""
    cells = students(record) if record.get("matrix") else set()  # too many to tell one by one: the record does
    lines: list[str] = []
    of_cells: dict[str, int] = {}
    for stage in record["stages"]:
        for text in _stage_remarks(stage):
            if stage.get("stage") in cells:
                of_cells[text] = of_cells.get(text, 0) + 1
            else:
                lines.append(f"{stage['title']}: {text}")
    lines += [f"{many} of {len(cells)} students: {text}" for text, many in of_cells.items()]
    train = record["data"].get("train", {})
    if "labels_changed" in train:
        lines.append(f"label noise: {train['labels_changed']} of {train['images']} training labels are changed")
    if "validation" not in record["data"]:
        lines.append("no validation split (data.validation: 0), so no best-on-validation weights")
    for stage in record["stages"]:
        if stage.get("stage") not in cells:
            lines.append(f"{stage['title']}: {stage['artifact']}")
    lines.append(f"record: {record['uri']}  ({duration(record.get('wall_s') or 0)})")
    return lines


def _stage_remarks(stage: dict[str, Any]) -> list[str]:
    lines = []
    mix = stage.get("made_of", {}).get("data", {}).get("mix")
    if mix and stage["epochs"]:
        lines.append(f"trained on mixed images: {Mix.model_validate(mix).in_words()}")
    if stage.get("balance"):
        lines.append(balance_remark(stage["balance"]))
    lines += [phase_text(phase["from_epoch"], phase["set"]) for phase in stage.get("phases", [])]
    if stage.get("linear_probe"):
        probe = stage["linear_probe"]
        lines.append(f"linear probe {percent(probe)} top-1 on test (features of {int(probe['train_images'])} images)")
    if "knn" in (stage.get("test") or {}):
        test = stage["test"]
        neighbours = f"{int(test['knn_k'])} nearest of {int(test['knn_train_images'])} training images"
        lines.append(f"no classifier, so no accuracy: kNN is the share of test images told by their {neighbours}")
    if stage.get("bad_images"):
        lines.append(f"{int(stage['bad_images'])} training images did not decode and were replaced by others")
    history = stage.get("history") or [{}]
    validation = (stage.get("validation") or {}).get("bad_images") or history[-1].get("val/bad_images")
    for split, bad in (("validation", validation), ("test", (stage.get("test") or {}).get("bad_images"))):
        if bad:
            lines.append(f"{int(bad)} {split} images did not decode and are not counted")
    if stage.get("dropped_per_epoch"):
        lines.append(f"{int(stage['dropped_per_epoch'])} images of each epoch dropped (last partial batch)")
    if stage.get("resumed_from"):
        lines.append(
            f"went on from step {stage['resumed_from']} of an interrupted process, whose time is in its wall time"
        )
    return lines


def _validation(stage: dict[str, Any], history: list[dict[str, Any]], best: int | None) -> dict[str, float] | None:
    if stage.get("validation"):
        return stage["validation"]
    for row in history:
        if row["epoch"] == best and "val/top1" in row:
            return {"top1": row["val/top1"]}
    return None
