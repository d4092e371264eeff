"""The tables that end a matrix: on the terminal, as Markdown, as CSV; published numbers in columns of their own."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdray.report.matrix_cells import DASH, baseline_name, columns, notes, published, where
from kdray.report.matrix_stats import MEASURES, Group, Row, groups
from kdray.store import Store

# What a narrow terminal does without, the least first.
SPARE = ("val best", "last epoch", "best epoch", "accelerator-s", "test best-on-val")


def print_matrix(record: Mapping[str, Any], console: Console) -> None:
    """Print the tables of a run's record, what they mean, and where the published numbers stand."""
    tables = groups(record)
    sources: dict[str, int] = {}
    left_out: dict[str, None] = {}
    for group in tables:
        found = _shown(record, group, sources)
        while _width(found) > console.width and (spare := next((name for name in SPARE if name in found), None)):
            del found[spare]
            left_out[spare] = None
        # Not the table's own title, which would be wrapped to its width.
        console.print(_title(record, group), markup=False, highlight=False, soft_wrap=True, style="italic")
        console.print(_table(found))
    if left_out:
        console.print(f"too narrow for {', '.join(left_out)}: see matrix.md", highlight=False, soft_wrap=True)
    for text, number in sources.items():
        console.print(f"[{number}] {text}", markup=False, highlight=False, soft_wrap=True)
    for line in notes(record, tables):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _shown(record: Mapping[str, Any], group: Group, sources: dict[str, int]) -> dict[str, list[str]]:
    """Columns for a terminal: published numbers with a reference, which is added to `sources`."""
    found = columns(group, baseline_name(record))
    if any(row.published for row in group.rows):
        found["published"] = [_referred(row, sources) for row in group.rows]
    return found


def _width(found: Mapping[str, list[str]]) -> int:
    return 1 + sum(3 + max(map(len, (name, *cells))) for name, cells in found.items())


def _table(found: Mapping[str, list[str]]) -> Table:
    table = Table()
    for number, name in enumerate(found):
        table.add_column(escape(name), justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for cells in zip(*found.values(), strict=True):
        table.add_row(*map(escape, cells))
    return table


def _referred(row: Row, sources: dict[str, int]) -> str:
    cells = []
    for one in row.published:
        spread = "" if one.std is None else f", ± {one.std:.2f}"
        over = "" if one.seeds is None else f", {one.seeds} seed{'s' * (one.seeds > 1)}"
        number = sources.setdefault(f"{one.source}: {one.recipe}{spread}{over}", len(sources) + 1)
        cells.append(f"{one.top1:.2f} [{number}]")
    return ", ".join(cells) or DASH


def _title(record: Mapping[str, Any], group: Group) -> str:
    at = where(group)
    return f"{record['name']}{', ' if at else ''}{at}: {_recipe(group) or 'several recipes'}"


def _recipe(group: Group) -> str | None:
    """The recipe of all rows that have one; None where they differ."""
    recipes = {row.recipe for row in group.rows if row.n}
    return (recipes or {"nothing is done yet"}).pop() if len(recipes) < 2 else None


def markdown(record: Mapping[str, Any]) -> str:
    """All tables with their notes, ready to be committed."""
    tables = groups(record)
    versions = record["versions"]
    made_by = f"kdray {versions['kdray']}" + (f" ({versions['commit']})" if versions.get("commit") else "")
    made_by += f", torch {versions['torch']}" if versions.get("torch") else ""
    lines = [f"# {record['name']}", "", f"Run {record['run_id']} ({record['status']}), {made_by}.", ""]
    for group in tables:
        lines += [f"## {where(group)}", ""] if group.at else []
        recipe = _recipe(group)
        lines += [f"Our recipe: {recipe}.", ""] if recipe else []
        lines += [*_markdown_table(record, group, own=recipe is None), ""]
    lines += [f"- {line}" for line in notes(record, tables)]
    return "\n".join(lines) + "\n"


def _markdown_table(record: Mapping[str, Any], group: Group, own: bool) -> list[str]:
    found = columns(group, baseline_name(record))
    numbers = len(found) - 1
    if own:
        found["our recipe"] = [row.recipe or DASH for row in group.rows]
    if any(row.published for row in group.rows):
        found["published top-1"] = ["<br>".join(published(row)) or DASH for row in group.rows]
        found["published recipe"] = ["<br>".join(one.recipe for one in row.published) or DASH for row in group.rows]
        found["source"] = ["<br>".join(one.source for one in row.published) or DASH for row in group.rows]
    rules = ["---", *["--:"] * numbers, *["---"] * (len(found) - 1 - numbers)]
    rows = [list(found), rules, *map(list, zip(*found.values(), strict=True))]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in escaped]


def csv_text(record: Mapping[str, Any]) -> str:
    """One line for each row of all tables, every number on its own; empty where there is none."""
    rows = [_csv_row(row) for group in groups(record) for row in group.rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _csv_row(row: Row) -> dict[str, Any]:
    cells: dict[str, Any] = {"seeds": row.n, "missing": " ".join(row.missing)}
    names = {"last": "test_last", "best": "test_best_on_val", "val": "val_best", "best_epoch": "best_epoch"}
    for name, column in names.items():
        found = row.spreads[name]
        cells |= {
            f"{column}_mean": _plain(found.mean if found else None),
            f"{column}_sd": _plain(found.sd if found else None),
            f"{column}_n": found.n if found else 0,
        }
    cells |= {"epochs": row.epochs, "accelerator_s": _plain(row.seconds), "device": " ".join(row.devices)}
    cells |= {"recipe": row.recipe, "baseline": "yes" if row.is_baseline else ""}
    for measure in MEASURES:
        one = row.against.get(measure)
        for key in ("n", "difference", "low", "high", "p", "p_holm"):
            cells[f"{names[measure]}_vs_baseline_{key}"] = _plain(getattr(one, key) if one else None)
    for key in ("top1", "std", "seeds", "recipe", "source"):
        texts = ["" if getattr(one, key) is None else str(getattr(one, key)) for one in row.published]
        cells[f"published_{key}"] = "; ".join(texts)
    # An axis may have the name of a number: axis_epochs beside epochs.
    return {f"axis_{name}" if name in cells else name: value for name, value in row.at.items()} | cells


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def write_tables(store: Store, folder: str, record: Mapping[str, Any]) -> list[str]:
    """Write `matrix.md` and `matrix.csv` into the `folder` of a run; return their URIs."""
    paths = {f"{folder}/matrix.md": markdown(record), f"{folder}/matrix.csv": csv_text(record)}
    for path, text in paths.items():
        store.write_text(path, text)
    return [store.path_uri(path) for path in paths]
