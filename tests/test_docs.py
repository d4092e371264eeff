"""Docs say what the records say, and name only files that are there."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from kdray.experiment import load_comparison

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


def table_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("results", "results"),
        ("methods", "results"),
        ("performance", "performance"),
        ("data", "performance"),
        ("search", "performance"),
        ("search_scale", "performance"),
        ("killed_job", "streaming"),
        ("objectives", "objectives"),
        ("search_results", "search-results"),
    ],
)
def test_tables_are_those_of_the_records(name: str, page: str) -> None:
    lines = getattr(table_module(), name)()
    assert len(lines) > 3
    assert "\n".join(lines).strip() in (ROOT / "docs" / f"{page}.md").read_text()


def test_the_forms_that_were_tried_are_those_of_the_records() -> None:
    table = "\n".join(table_module().gradient_relation())
    assert table.count("\n") > 5 and table in (ROOT / "docs" / "methods" / "clmkd.md").read_text()


@pytest.mark.parametrize("method", ["clmkd", "mcld"])
def test_what_was_compared_is_what_the_searches_found(method: str) -> None:
    records = ROOT / "benchmarks" / "records"
    search = json.loads((records / f"cifar100_search_{method}.json").read_text())["search"]
    compared = load_comparison(ROOT / "experiments" / "cifar100_search_compared.yaml").experiments
    best = load_comparison(records / f"cifar100_search_{method}-best.yaml").first
    for path, value in search["trials"][search["best"]]["changes"].items():
        _, _, part, key = path.split(".")
        assert best.objectives[method][part][key] == value, path
    for seed in range(3):
        assert compared[f"{method}_found.seed{seed}"].objectives == best.objectives


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_every_method_has_its_card() -> None:
    from kdray.objectives import methods

    cards = "\n".join(path.read_text() for path in ROOT.glob("docs/methods/*.md"))
    assert [name for name in methods() if f"`{name}`" not in cards] == []
