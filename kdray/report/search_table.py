"""The tables that end a search: its best trials, what failed, which parameters mattered, and where all of it lies."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdray.report.text import duration
from kdray.report.trial_text import ENDED, metric_text, short_names, standing, usable, value_text, varying

COLUMNS = ("trial", "value", "epoch", "epochs", "state", "wall")  # then the parameters
FAILURES = 10  # kinds of failure that are printed
BAR = 20


def ranked(search: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials with a value as the winner is chosen, the best first: those that trained to their end, then those that
    were stopped, then those that failed on the way; among equals the earlier one."""
    sign = -1 if search["mode"] == "max" else 1
    judged = [trial for trial in search["trials"] if usable(trial["value"])]
    return sorted(judged, key=lambda trial: (standing(trial["state"]), sign * trial["value"], trial["number"]))


def best_rows(search: dict[str, Any], count: int = 10) -> list[dict[str, str]]:
    """One row of ready text for each of the `count` best trials: `COLUMNS`, then each parameter by its short name.

    The value is the best of the trial's epochs, `epoch` the one it came from.
    """
    best = ranked(search)[:count]
    names = varying(search)
    short = short_names(names)
    rows = []
    for trial in best:
        cells = (
            str(trial["number"]),
            metric_text(search["metric"], trial["value"]),
            str(trial["best_epoch"] or "-"),
            str(trial["epochs"]),
            "stopped early" if trial["state"] == "stopped" else trial["state"],
            duration(trial["wall_s"]),
        )
        # A parameter with a column's name (train.epochs) keeps a column of its own.
        columns = {name: short[name] if short[name] not in COLUMNS else name for name in names}
        parameters = {columns[name]: value_text(trial["parameters"].get(name)) for name in names}
        rows.append(dict(zip(COLUMNS, cells, strict=True)) | parameters)
    return rows


def print_search(record: dict[str, Any], console: Console, count: int = 10) -> None:
    """Print what came out of the search of a finished run, from its record."""
    search = record["search"]
    rows = best_rows(search, count)
    if rows:
        title = f"{record['name']}: best {len(rows)} of {len(search['trials'])} trials by {goal(search)}"
        console.print(_fitting_table(title, rows, console.width))
    for line in search_remarks(search):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def search_remarks(search: dict[str, Any]) -> list[str]:
    """What the table cannot say: counts, how the best was chosen, importance, failures, where things lie."""
    trials = search["trials"]
    states = Counter(trial["state"] for trial in trials)
    epochs = sum(trial["epochs"] for trial in trials)
    counts = ", ".join(f"{states[state]} {state}" for state in (*ENDED, "running", "waiting") if states[state])
    lines = [
        f"trials: {counts or 'none'} of {search['wanted']} wanted; {epochs} epochs{_in_full(search, epochs)}, "
        f"{duration(search['wall_s'])}"
    ]
    if search["best"] is None:
        lines.append("no trial has a value, so there is no best one")
    else:
        where = " on validation images" if search["metric"].startswith("val/") else ""
        ends = {trial["state"] for trial in (search.get("transfer") or {}).get("trials") or trials}
        among = ", of whole trials" if {"done", "stopped"} <= ends else ""
        lines.append(f"chosen by {goal(search)}{where}{among}; the test images took no part in the search")
    return lines + _transfer_lines(search) + _importance_lines(search) + _failure_lines(search) + _places(search)


def best_of(search: dict[str, Any]) -> dict[str, Any]:
    """The winner's trial: with a proxy, that on the whole experiment."""
    trials = (search.get("transfer") or {}).get("trials") or search["trials"]
    (best,) = [trial for trial in trials if trial["number"] == search["best"]]
    return best


def goal(search: dict[str, Any]) -> str:
    return f"{'highest' if search['mode'] == 'max' else 'lowest'} {search['metric']}"


def _in_full(search: dict[str, Any], epochs: int) -> str:
    """How many epochs the ended trials would have taken had none been stopped."""
    ended = [trial["state"] for trial in search["trials"] if trial["state"] in ("done", "stopped")]
    if not search["max_epochs"] or "stopped" not in ended:
        return ""
    return f" instead of {len(ended) * search['max_epochs']}" if epochs < len(ended) * search["max_epochs"] else ""


def _transfer_lines(search: dict[str, Any]) -> list[str]:
    """The proxy's rank correlation with full training, in the words that the search left."""
    words = (search["transfer"] or {}).get("words")
    return [f"proxy: {words}"] if words else []


def _importance_lines(search: dict[str, Any]) -> list[str]:
    shares = search["importance"]
    if not shares:
        return []
    short = short_names(shares)
    width = max(map(len, short.values()))
    ordered = sorted(shares.items(), key=lambda pair: -pair[1])
    return ["importance (share of the variation of values between trials):"] + [
        f"  {short[name]:{width}}  {share:4.0%}  {'#' * round(BAR * share)}".rstrip() for name, share in ordered
    ]


def _failure_lines(search: dict[str, Any]) -> list[str]:
    """Each error once, with the trials that it ended."""
    kinds: dict[str, list[int]] = {}
    for trial in search["trials"]:
        if trial["state"] == "failed":
            kinds.setdefault(trial["error"] or "no reason is known", []).append(trial["number"])
    lines = []
    for error, numbers in list(kinds.items())[:FAILURES]:
        some = ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
        lines.append(f"failed trial{'s' if len(numbers) > 1 else ''} {some}: {error}")
    if len(kinds) > FAILURES:
        lines.append(f"and {len(kinds) - FAILURES} other errors, in the record")
    return lines


def _places(search: dict[str, Any]) -> list[str]:
    lines = []
    if search["best"] is not None:
        best = best_of(search)
        lines.append(f"best trial {best['number']}: {best['artifact']}")
    if search.get("best_yaml"):
        lines.append(f"its experiment: {search['best_yaml']}")
    lines += [f"picture: {uri}" for uri in search.get("pictures") or [] if uri.endswith(".svg")]
    if search.get("tensorboard"):
        lines.append(f"tensorboard --logdir {search['tensorboard']}")
    return lines


def _fitting_table(title: str, rows: list[dict[str, str]], width: int) -> Table:
    """A row per trial; where that is wider than the terminal, a column for each of as many trials as fit."""
    columns = list(rows[0])
    cells = [[row[column] for column in columns] for row in rows]
    if _width(columns, cells) <= width:
        return _table(title, columns, cells)
    turned = [columns, *cells]
    while len(turned) > 2 and _width([""] * len(turned), list(map(list, zip(*turned, strict=True)))) > width:
        turned.pop()
    lines = [list(line) for line in zip(*turned, strict=True)]
    return _table(title, lines[0], lines[1:])


def _width(columns: list[str], rows: list[list[str]]) -> int:
    return 1 + sum(3 + max(map(len, column)) for column in zip(columns, *rows, strict=True))


def _table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    return table
