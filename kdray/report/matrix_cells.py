"""A matrix's rows as ready text: the columns of its tables, and the lines that say what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdray.experiment.matrix import SEED
from kdray.report.matrix_stats import FEWEST, Group, Row, accelerator_seconds
from kdray.report.significance import Spread

DASH = "-"
MOST_MISSING = 8  # missing cells that are told one by one


def columns(group: Group, baseline: str) -> dict[str, list[str]]:
    """Cells by column, from top to bottom; columns without any number are left out."""
    rows = group.rows
    label = " x ".join(group.named) or "cell"
    found = {label: [row_name(group, row) for row in rows], "seeds": [str(row.n) for row in rows]}
    optional = {
        "test last": [spread(row, "last") for row in rows],
        "test best-on-val": [spread(row, "best") for row in rows],
        "val best": [spread(row, "val") for row in rows],
        "best epoch": [spread(row, "best_epoch", 0) for row in rows],
        "last epoch": [DASH if not row.epochs else str(row.epochs) for row in rows],
        f"last - {baseline}": [_difference(row) for row in rows] if baseline else [],
        "p": [_p(row) for row in rows] if baseline and any(a.n >= FEWEST for a in _last(rows)) else [],
        "accelerator-s": [f"{row.seconds:.0f}" if row.n else DASH for row in rows],
    }
    return found | {name: cells for name, cells in optional.items() if any(cell != DASH for cell in cells)}


def where(group: Group) -> str:
    """What tells the table apart from others."""
    return ", ".join(f"{axis} {value}" for axis, value in group.at.items())


def row_name(group: Group, row: Row) -> str:
    """What tells the row apart in its table."""
    return " x ".join(str(row.at[axis]) for axis in group.named) or "all"


def spread(row: Row, name: str, digits: int = 2) -> str:
    """Mean and standard deviation of a row's number; how many it is of, where that is not all seeds."""
    found = row.spreads[name]
    if found is None:
        return DASH
    return _pm(found, digits) + (f" ({found.n} seeds)" if found.n != row.n else "")


def published(row: Row) -> list[str]:
    """The numbers that others published for the row."""
    return [
        f"{one.top1:.2f}"
        + ("" if one.std is None else f" ± {one.std:.2f}")
        + ("" if one.seeds is None else f" (n={one.seeds})")
        for one in row.published
    ]


def baseline_name(record: Mapping[str, Any]) -> str:
    """The baseline in words, empty for none."""
    return " x ".join(str(value) for value in (record["matrix"].get("baseline") or {}).values())


def notes(record: Mapping[str, Any], tables: list[Group]) -> list[str]:
    """What the columns mean, what chose what, what it cost, and what is missing."""
    rows = [row for group in tables for row in group.rows]
    baseline = baseline_name(record)
    lines = [
        "Top-1 accuracy on test in percent, mean ± sample standard deviation over the seeds. test last: the weights of "
        "the last epoch; test best-on-val: of the epoch that is best on validation. Test images take part in no choice."
    ]
    if any(row.n for row in rows) and all(row.spreads["best"] is None for row in rows):
        lines.append("Nothing is held out for validation, or nothing was chosen on it: there is only the last epoch.")
    few = [group for group in tables if group.few]
    if len(few) == len(tables):
        lines.append(f"fewer than {FEWEST} seeds: no ranking")
    else:
        lines += [f"{where(group)}: fewer than {FEWEST} seeds: no ranking" for group in few]
    if baseline:
        lines.append(_of_baseline(baseline, tables))
    lines += _cost(record, rows)
    if any(row.published for row in rows):
        lines.append("Published numbers are their authors', with the recipe named beside them; they are not ours.")
    missing = {name: why for row in rows for name, why in row.missing.items()}
    lines += [f"missing: {name} ({why})" for name, why in list(missing.items())[:MOST_MISSING]]
    if len(missing) > MOST_MISSING:
        lines.append(f"missing: {len(missing) - MOST_MISSING} more of {len(record['matrix']['cells'])} cells")
    for row in rows:
        if row.same:
            lines.append(f"no replicate, the same result as another {SEED}: {', '.join(row.same)}")
    return lines


def _of_baseline(baseline: str, tables: list[Group]) -> str:
    line = f"last - {baseline}: mean difference of test last over the seeds that both have"
    most = max((a.n for group in tables for a in _last(group.rows)), default=0)
    if most < FEWEST:
        return f"{line}; an interval and p take {FEWEST} seeds."
    compared = sorted({sum(a.p is not None for a in _last(group.rows)) for group in tables} - {0})
    return (
        f"{line}, in brackets its 95 % interval (percentile bootstrap over seeds, too narrow for few); p: two-sided "
        f"paired t-test, Holm-corrected over the comparisons of a table ({' or '.join(map(str, compared)) or 0})."
    )


def _cost(record: Mapping[str, Any], rows: list[Row]) -> list[str]:
    devices = sorted({device for row in rows for device in row.devices})
    if not devices:
        return []
    kind = "CPU" if devices == ["cpu"] else ", ".join("CPU" if device == "cpu" else device for device in devices)
    line = f"accelerator-s: wall-clock seconds x workers over the seeds, on {kind}, without teachers."
    teachers = [stage for stage in record["stages"] if stage["stage"].partition(".")[0] == "teacher"]
    if teachers:
        seconds = sum(map(accelerator_seconds, teachers))
        line += f" {len(teachers)} teacher{'s' * (len(teachers) > 1)}: {seconds:.0f}."
    return [line]


def _last(rows: list[Row]) -> list[Any]:
    return [row.against["last"] for row in rows if "last" in row.against]


def _difference(row: Row) -> str:
    if row.is_baseline:
        return "baseline"
    one = row.against.get("last")
    if one is None:
        return DASH
    interval = "" if one.low is None else f" [{one.low:+.2f}, {one.high:+.2f}]"
    return f"{one.difference:+.2f}{interval}" + (f" ({one.n} seeds)" if one.n != row.n else "")


def _p(row: Row) -> str:
    one = row.against.get("last")
    if one is None or one.p_holm is None:
        return DASH
    return "<0.001" if one.p_holm < 0.001 else f"{one.p_holm:.3f}"


def _pm(found: Spread, digits: int) -> str:
    text = f"{found.mean:.{digits}f}"
    return text if found.sd is None else f"{text} ± {found.sd:.{digits}f}"
