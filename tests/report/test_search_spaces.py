"""The table of default spaces in the docs is that of the code."""

from pathlib import Path

from kdray.objectives.registry import methods
from kdray.objectives.search_space import default_space
from kdray.report.search_spaces import search_spaces_table

PAGE = Path(__file__).parents[2] / "docs" / "search-space.md"


def test_the_page_has_the_table() -> None:
    assert search_spaces_table() in PAGE.read_text(), "python -m kdray.report.search_spaces"


def test_the_table_says_what_is_searched() -> None:
    lines = {line.partition("`")[2].partition("`")[0]: line for line in search_spaces_table().splitlines()[2:]}
    assert set(lines) == set(methods())
    for name, line in lines.items():
        for path, text in default_space({name: {}}).texts().items():
            below = path.removeprefix(f"objectives.{name}.")
            assert f"`{below}` {text}" in line or f"`{below.partition('.')[0]}.*`" in line
    assert lines["ce"].endswith("| nothing |") and "`kd.*`" not in lines["mcld"]
