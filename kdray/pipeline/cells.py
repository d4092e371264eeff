"""The stages of a matrix in an order in which many of them run side by side."""

from __future__ import annotations

from collections.abc import Sequence

from kdray.pipeline.stages import Stage


def cell_levels(stages: Sequence[Stage]) -> list[list[Stage]]:
    """`stages` in an order in which those of one list wait for none of the same list: teachers, then students."""
    teachers = [stage for stage in stages if stage.kind == "teacher"]
    return [level for level in (teachers, [stage for stage in stages if stage.kind != "teacher"]) if level]
