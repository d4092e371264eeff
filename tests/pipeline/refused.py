"""How tests ask for the one line that bad input ends in."""

from __future__ import annotations

from typing import Any

from tests.tiny import Lab, tree_of


def refused(lab: Lab, changes: dict[str, Any], *arguments: str) -> str:
    """The line that TINY with `changes` ends in; nothing is left by it. Use the fixture `nothing_runs` beside it."""
    path = lab.write(changes)
    before = tree_of(lab.folder)
    done = lab.run(*arguments, changes=changes)
    said = done.error(2)
    assert tree_of(lab.folder) == before
    assert path.name in said or "--set" in said, said
    return said
