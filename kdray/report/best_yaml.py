"""The comment that opens best.yaml: which search found it, and what it reached there."""

from __future__ import annotations

from typing import Any

from kdray.report.search_table import best_of, goal
from kdray.report.trial_text import metric_text, value_text

NAME = "best.yaml"


def best_header(search: dict[str, Any], record: dict[str, Any]) -> str:
    """Comment lines, each with its line end, for the experiment of the best trial.

    Raises ValueError when the search has no best trial: then there is no best.yaml.
    """
    if search["best"] is None:
        raise ValueError("the search has no best trial")
    best = best_of(search)
    epochs = (search.get("transfer") or {}).get("max_epochs") or search["max_epochs"]
    of = f" of {epochs}" if epochs else ""
    where = " on validation images (test images took no part)" if search["metric"].startswith("val/") else ""
    lines = [
        f"{record['name']}: trial {best['number']} of {len(search['trials'])}, the best by {goal(search)}"
        + (" of those that a proxy chose" if search.get("transfer") else ""),
        f"{search['metric']} {metric_text(search['metric'], best['value'])}{where}, "
        f"at epoch {best['best_epoch']}{of}, seed {record['seed']}",
        f"found by {_named(search['searcher'])}, scheduler {_named(search['scheduler'])}: {record['uri']}",
        *(f"  {name} = {value_text(value)}" for name, value in best["parameters"].items()),
        f"to train it and judge it on test: python -m kdray.run {NAME}",
    ]
    # A line of a comment cannot end early, whatever a name or a value holds.
    return "".join(f"# {' '.join(line.splitlines())}\n" for line in lines)


def _named(part: dict[str, Any] | str | None) -> str:
    """`tpe (seed 0)` of a searcher's or scheduler's facts."""
    if not isinstance(part, dict):
        return part or "none"
    rest = ", ".join(f"{key} {value_text(value)}" for key, value in part.items() if key != "type" and value is not None)
    return str(part.get("type", "none")) + (f" ({rest})" if rest else "")
