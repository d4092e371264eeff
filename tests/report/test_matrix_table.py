"""The tables of a matrix from its record: on the terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from rich.console import Console

from kdray.report.matrix_table import csv_text, markdown, write_tables
from kdray.report.summary import print_summary
from kdray.store import Store
from tests.report.matrix_record import record_of

NUMBERS: dict[tuple[str, str], list[float | None]] = {
    ("ce", "a"): [60.0, 61.0, 62.0],
    ("kd", "a"): [63.0, 63.5, 66.0],
    ("ce", "b"): [70.0, 71.0, 72.0],
    ("kd", "b"): [71.0, None, 71.5],
}
PUBLISHED = [
    {"method": "kd", "pair": "a", "top1": 70.66, "recipe": "240 epochs | SGD", "source": "RepDistiller README"},
    {"method": "kd", "pair": "a", "top1": 71, "std": 0.2, "seeds": 5, "recipe": "best epoch", "source": "Another"},
]


def record(**matrix: Any) -> dict[str, Any]:
    return record_of(NUMBERS, baseline={"method": "ce"}, published=PUBLISHED, **matrix)


def printed(of: dict[str, Any], width: int = 160) -> str:
    out = io.StringIO()
    print_summary(of, Console(file=out, width=width))
    return out.getvalue()


def cells(text: str, name: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"│ {name} ")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_the_terminal_has_a_table_for_each_pair() -> None:
    text = printed(record(), 170)
    assert "m, pair a: 240 epochs, batch 64, sgd 0.05" in text and "m, pair b: " in text
    (a, b) = cells(text, "kd")
    assert a[:7] == ["kd", "3", "64.17 ± 1.61", "65.17 ± 1.61", "66.17 ± 1.61", "231 ± 1", "240"]
    assert a[7].startswith("+3.17 [+2.50, +4.00]") and a[8] == "0.019" and a[9] == "300"
    assert a[10] == "70.66 [1], 71.00 [2]"
    assert b[1] == "2" and b[7] == "+0.25"
    assert cells(text, "ce")[0][7] == "baseline"
    for line in (
        "[1] RepDistiller README: 240 epochs | SGD",
        "[2] Another: best epoch, ± 0.20, 5 seeds",
        "pair b: fewer than 3 seeds: no ranking",
        "missing: kd.b.seed1 (not run)",
        "accelerator-s: wall-clock seconds x workers over the seeds, on CPU, without teachers. 1 teacher: 600.",
    ):
        assert line in text.splitlines(), line
    assert "Holm-corrected over the comparisons of a table (1)." in text
    assert "student.kd.a.seed0" not in text  # the cells' artifacts are in the record


def test_what_a_narrow_terminal_leaves_out_is_said() -> None:
    text = printed(record_of(NUMBERS, baseline={"method": "ce"}), 90)
    assert "too narrow for val best, last epoch, best epoch, accelerator-s: see matrix.md" in text
    assert "…" not in text and cells(text, "kd")[0][2] == "64.17 ± 1.61"


def test_columns_without_a_number_are_left_out() -> None:
    of = record_of(NUMBERS)
    for stage in of["stages"]:
        stage |= {"test_best": None, "best_epoch": None}
    text = printed(of)
    assert "best-on-val" not in text[text.index("m, pair a") :].partition("Top-1")[0] and " - ce" not in text
    assert "there is only the last epoch" in text and "published" not in text.lower()


def test_many_missing_cells_are_counted() -> None:
    text = printed(record_of({("kd", "a"): [None] * 20, ("ce", "a"): [1.0]}))
    assert text.count("missing: kd.a.seed") == 8 and "missing: 12 more of 21 cells" in text


def test_nothing_done_yet() -> None:
    text = printed(record_of({("kd", "a"): [None], ("ce", "a"): [None]}))
    assert "m, pair a: nothing is done yet" in text and "missing: kd.a.seed0 (not run)" in text


def test_remarks_of_cells_are_counted() -> None:
    of = record()
    for stage in of["stages"]:
        stage["dropped_per_epoch"] = 8
    text = printed(of)
    assert "11 of 12 students: 8 images of each epoch dropped (last partial batch)" in text
    assert "teacher: 8 images of each epoch dropped" in text


def test_markdown() -> None:
    of = record()
    of["stages"][4]["made_of"]["train"]["batch"] = 32  # kd of pair a has several recipes
    lines = markdown(of).splitlines()
    assert lines[0] == "# m" and lines[2] == "Run m-0011 (done), kdray 0.1.0 (abc), torch 2.7."
    assert "## pair a" in lines and "## pair b" in lines
    tables = [line for line in lines if line.startswith("|")]
    assert tables[0].endswith("| our recipe | published top-1 | published recipe | source |")
    (kd,) = [line for line in tables if line.startswith("| kd | 3 ")]
    assert "240 epochs, batch 32, sgd 0.05 or 240 epochs, batch 64, sgd 0.05" in kd
    assert kd.endswith(
        "| 70.66<br>71.00 ± 0.20 (n=5) | 240 epochs \\| SGD<br>best epoch | RepDistiller README<br>Another |"
    )
    assert all(line.replace("\\|", "").count("|") == tables[0].count("|") for line in tables[:4])
    assert lines.count("Our recipe: 240 epochs, batch 64, sgd 0.05.") == 1
    assert "- pair b: fewer than 3 seeds: no ranking" in lines


def test_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(record()))))
    assert [(row["method"], row["pair"], row["seeds"]) for row in rows] == [
        ("ce", "a", "3"),
        ("kd", "a", "3"),
        ("ce", "b", "3"),
        ("kd", "b", "2"),
    ]
    kd = rows[1]
    assert float(kd["test_last_mean"]) == 64.1667 and float(kd["best_epoch_sd"]) == 1
    assert float(kd["test_last_vs_baseline_difference"]) == 3.16667 and float(kd["test_last_vs_baseline_p"]) < 0.02
    assert kd["published_source"] == "RepDistiller README; Another" and kd["published_std"] == "; 0.2"
    assert rows[3]["missing"] == "kd.b.seed1" and rows[3]["test_last_vs_baseline_p"] == ""
    assert rows[0]["baseline"] == "yes"


def test_an_axis_with_the_name_of_a_number_keeps_its_values() -> None:
    of = record()
    matrix = of["matrix"]
    matrix["cells"] = {name: {"epochs": f"e-{at['pair']}", **at} for name, at in matrix["cells"].items()}
    rows = list(csv.DictReader(io.StringIO(csv_text(of))))
    assert [row["axis_epochs"] for row in rows] == ["e-a", "e-a", "e-b", "e-b"]
    assert rows[0]["epochs"] not in ("", "e-a")


def test_tables_are_written_into_the_runs_folder(tmp_path: Path) -> None:
    of = record()
    uris = write_tables(Store(str(tmp_path)), "runs/m-0011", of)
    assert uris == [str(tmp_path / "runs/m-0011" / name) for name in ("matrix.md", "matrix.csv")]
    assert Path(uris[0]).read_text() == markdown(of) and Path(uris[1]).read_text() == csv_text(of)
