"""Objectives as a user writes them, outside of the package."""

from __future__ import annotations

from kdray.objectives import LOSS, Objective, ObjectiveConfig


class GapConfig(ObjectiveConfig):
    power: float = 2.0


class Gap(Objective):
    """Distance between the logits; `size` is reported only."""

    config = GapConfig
    provenance = "paper"
    family = "logits"
    source = "a test"

    def part_weights(self, step):
        return {"size": 0.0}

    def forward(self, targets, student, teacher, student_head, teacher_head, step):
        gap = (student.logits - teacher.logits).abs()
        return {LOSS: (gap**self.options.power).mean(), "size": gap.mean()}


class Sourceless(Gap):
    source = ""


class Oracle(Gap):
    provenance = "hearsay"


class Unwritten(Objective):
    config = GapConfig
    provenance, family, source = "paper", "logits", "a test"


NOT_A_CLASS = 3
