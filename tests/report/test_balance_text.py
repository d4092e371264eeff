"""What is said of balanced weights."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from kdray.experiment import Balance
from kdray.report.balance_text import balance_lines, balance_remark, plan_line
from kdray.report.progress import ProgressView

FOUND: dict[str, Any] = {
    "reference": "ce",
    "batches": 8,
    "averaged": 4,
    "norms": {"ce": 0.0625, "kd": 1.0, "at": None, "clmkd.class_guided": 12.345678},
    "shares": {"at": 1.0, "kd": 0.5},
    "shares_before": {"ce": 1.0, "kd": 16.0, "at": None, "clmkd.class_guided": 158.0},
    "weights_before": {"ce": 1.0, "kd": 1.0, "at": 1000.0, "clmkd.class_guided": 0.8},
    "weights": {"ce": 1.0, "kd": 0.03125, "at": 1000.0, "clmkd.class_guided": 0.8},
    "kept": {"at": "it does not reach the student's pooled vector"},
    "objectives": {"kd": {"weight": 0.03125}},
}
LINES = [
    "balance: weights set now and kept. Norms of gradients on the pooled vector, mean over batches 5 to 8",
    "  part                norm    share          weight",
    "  ce                  0.0625  1 (reference)  1",
    "  kd                  1       16 -> 0.5      1 -> 0.03125",
    "  at                  -       -              1000 (kept: it does not reach the student's pooled vector)",
    "  clmkd.class_guided  12.35   158            0.8",
    "  as YAML: objectives: {kd: {weight: 0.03125}}",
]


def test_the_table() -> None:
    assert balance_lines(FOUND) == LINES


def test_one_that_goes_on_says_whose_weights_they_are() -> None:
    (head, *rest) = balance_lines(FOUND | {"earlier": True})
    assert head.startswith("balance: weights set by an interrupted process. Norms") and rest == LINES[1:]


def test_nothing_that_was_set_is_nothing_to_write() -> None:
    nothing = FOUND | {"objectives": {}, "batches": 1, "averaged": 1}
    lines = balance_lines(nothing)
    assert "as YAML" not in lines[-1] and lines[0].endswith("mean over batch 1")


def test_a_view_shows_it_as_it_is() -> None:
    out = io.StringIO()
    with ProgressView(Console(file=out, width=60)) as shown:  # narrower than the lines, which are not cut
        shown.event("balance", FOUND)
    assert out.getvalue().splitlines() == [f"  {line}" for line in LINES]


def test_the_plan_and_the_end() -> None:
    balance = Balance(shares={"at": 1.0, "kd": 0.5}, to="ce")
    assert plan_line(balance, 100).endswith("are at 1, kd 0.5 of ce's, measured on 8 batches")
    assert plan_line(balance, 1).endswith("measured on 1 batch")
    assert balance_remark(FOUND) == (
        "weights balanced to ce: kd 1 -> 0.03125 (share 0.5), "
        "at kept 1000 (it does not reach the student's pooled vector)"
    )
