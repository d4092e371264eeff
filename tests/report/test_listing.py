"""`--list methods` on a terminal, and the page that says the same."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

import kdray
from kdray.objectives import Needs, list_methods
from kdray.report.listing import needs_in_words, print_listing
from kdray.report.methods_page import methods_page

PAGE = Path(kdray.__file__).parents[1] / "docs" / "methods" / "README.md"


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (Needs(teacher=False), "-"),
        (Needs(), "teacher"),
        (Needs(teacher_logits=True), "teacher (logits)"),
        (Needs(teacher_logits=True, teacher_pooled=True, index=True), "teacher (logits, features), sample index"),
        (Needs(stages=True, preact=True), "teacher, stages, pre-activations"),
        (Needs(teacher=False, min_views=4, labels=True), "4 views, all labels"),
    ],
)
def test_needs_in_words(needs: Needs, words: str) -> None:
    assert needs_in_words(needs) == words


@pytest.mark.parametrize("width", [100, 120, 200])
def test_every_method_is_listed_whole(width: int) -> None:
    out = io.StringIO()
    print_listing("methods", Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width and "…" not in out.getvalue()
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    said: dict[str, list[str]] = {}
    for name, *rest in cells:
        if name:
            said[name] = [""] * len(rest)
            last = said[name]
        for number, text in enumerate(rest):
            last[number] = f"{last[number]} {text}".strip()
    rows = list_methods()
    assert list(said) == [row.name for row in rows]
    for row in rows:
        family, needs, provenance, source = said[row.name]
        assert (family, needs, provenance) == (row.family, needs_in_words(row.needs), row.provenance)
        assert source.replace(" ", "") == row.source.replace(" ", "")


def test_needs_are_those_of_the_default_options() -> None:
    needs = {row.name: needs_in_words(row.needs) for row in list_methods()}
    assert needs["ce"] == "-" and needs["kd"] == "teacher (logits)" and "stages" in needs["sp"]
    assert "sample index" in needs["crd"] and "4 views" in needs["mlkd"] and needs["simclr"] == "2 views"


def test_the_page_of_methods_is_current() -> None:
    page = PAGE.read_text()
    assert page == methods_page(), "python -m kdray.report.methods_page > docs/methods/README.md"
    for row in list_methods():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| [`{row.name}`](")]
        assert row.summary.replace("|", "\\|") in line and row.provenance in line
