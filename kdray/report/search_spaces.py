"""The table of the methods' default search spaces, written from what is registered.

python -m kdray.report.search_spaces          the table that stands in docs/search-space.md
"""

from __future__ import annotations

from kdray.objectives.combine import Composite
from kdray.objectives.contract import Objective
from kdray.objectives.registry import methods


def search_spaces_table() -> str:
    """A line for each method: what is searched of it, with the options at their defaults."""
    rows = [f"| [`{name}`](methods/{name.partition('.')[0]}.md) | {_cell(cls)} |" for name, cls in methods().items()]
    return "\n".join(["| method | searched |", "|---|---|", *rows])


def _cell(cls: type[Objective]) -> str:
    options = cls.config()
    if issubclass(cls, Composite):
        members = [(name, member) for name, member in cls.members_of.items() if getattr(options, name).weight > 0]
        found = [f"`{name}.*`" for name, member in members if member.searched(getattr(options, name))]
        return f"of its members, as they have it: {', '.join(found)}"
    return ", ".join(f"`{path}` {text}" for path, text in cls.searched(options).items()) or "nothing"


if __name__ == "__main__":
    print(search_spaces_table())
