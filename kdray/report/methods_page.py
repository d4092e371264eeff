"""The index of methods, written from what is registered.

python -m kdray.report.methods_page > docs/methods/README.md
"""

from __future__ import annotations

from itertools import groupby

from kdray.objectives.registry import MethodRow, list_methods
from kdray.report.listing import needs_in_words

HEAD = """\
# Methods

Written by `python -m kdray.report.methods_page > docs/methods/README.md`; a test holds it to what is registered.
`python -m kdray.run --list methods` prints the same in a terminal. What methods cost: [objectives](../objectives.md).

Needs are those of the default options, beside images and the labels of the batch. Provenance: `author-code`, the
formula is that of the authors' released code; `paper`, it stands in the paper; `reconstruction`, the
formula or a part of it is ours, be it that only the idea is published where we could read it, or that what is
published does not fit here; its card says which.
"""
COLUMNS = "| method | what it does | needs | provenance | source |\n|---|---|---|---|---|"


def methods_page() -> str:
    """The page: a table for each family, a line for each method with a link to its card."""
    parts = [HEAD]
    for family, rows in groupby(sorted(list_methods(), key=lambda row: (row.family, row.name)), lambda row: row.family):
        parts.append("\n".join([f"## {family.capitalize()}\n", COLUMNS, *map(_line, rows)]) + "\n")
    return "\n".join(parts)


def _line(row: MethodRow) -> str:
    card = f"[`{row.name}`]({row.name.partition('.')[0]}.md)"
    cells = [card, row.summary, needs_in_words(row.needs), row.provenance, row.source]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(methods_page(), end="")
