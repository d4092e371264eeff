"""What is said of balanced weights: in the plan, before the first step, and under the table that ends a run."""

from __future__ import annotations

from typing import Any

from kdray.experiment import Balance
from kdray.experiment.yaml_text import flow


def plan_line(balance: Balance, steps_per_epoch: int) -> str:
    """One line of a plan, of a `balance` with all its parts named."""
    shares = ", ".join(f"{name} {share:g}" for name, share in balance.shares.items())
    batches = min(balance.batches, steps_per_epoch)
    return (
        f"balance: weights are set before the first step so that gradients on the pooled vector are {shares} of "
        f"{balance.to}'s, measured on {batches} batch{'es' * (batches != 1)}"
    )


def balance_lines(values: dict[str, Any]) -> list[str]:
    """The table of a `Balanced` (as JSON): norm, share and weight of every part; and the new weights as YAML.

    With `earlier` it says that they are those of an interrupted process.
    """
    first, last = values["batches"] - values["averaged"] + 1, values["batches"]
    seen = f"batch {last}" if first == last else f"batches {first} to {last}"
    said = "set by an interrupted process" if values.get("earlier") else "set now and kept"
    head = f"balance: weights {said}. Norms of gradients on the pooled vector, mean over {seen}"
    rows = [("part", "norm", "share", "weight")]
    rows += [(name, *_cells(values, name)) for name in values["norms"]]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [head, *("  " + "  ".join([*map(str.ljust, row, widths), row[3]]).rstrip() for row in rows)]
    if values["objectives"]:
        lines.append(f"  as YAML: objectives: {flow(values['objectives'])}")
    return lines


def _cells(values: dict[str, Any], name: str) -> tuple[str, str, str]:
    norm, share = values["norms"][name], values["shares_before"].get(name)
    before, now = values["weights_before"][name], values["weights"][name]
    text = "-" if share is None else f"{share:.3g}"
    weight = f"{before:g}"
    if name == values["reference"]:
        text = "1 (reference)"
    elif name in values["kept"]:
        weight += f" (kept: {values['kept'][name]})"
    elif name in values["shares"]:
        text += f" -> {values['shares'][name]:g}"
        weight += f" -> {now:g}"
    return "-" if norm is None else f"{norm:.4g}", text, weight


def balance_remark(values: dict[str, Any]) -> str:
    """One line of a summary."""
    changed = [
        f"{name} {values['weights_before'][name]:g} -> {values['weights'][name]:g} (share {share:g})"
        for name, share in values["shares"].items()
        if name not in values["kept"]
    ]
    kept = [f"{name} kept {values['weights'][name]:g} ({reason})" for name, reason in values["kept"].items()]
    return f"weights balanced to {values['reference']}: {', '.join(changed + kept)}"
