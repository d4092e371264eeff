"""Objectives: one method per file, found by name; torch only, no Ray, no data loading."""

from kdray.objectives.combine import Composite, ObjectiveSet
from kdray.objectives.contract import (
    LOSS,
    Gather,
    LossReport,
    Mixed,
    Needs,
    Objective,
    ObjectiveConfig,
    Setup,
    StepInfo,
    Targets,
    WeightSchedule,
)
from kdray.objectives.gather import gather_rows, sum_over_workers
from kdray.objectives.registry import (
    MethodRow,
    bank_bytes,
    list_methods,
    methods,
    needs,
    normalise,
    parse,
    register,
)

__all__ = [
    "LOSS",
    "Composite",
    "Gather",
    "LossReport",
    "MethodRow",
    "Mixed",
    "Needs",
    "Objective",
    "ObjectiveConfig",
    "ObjectiveSet",
    "Setup",
    "StepInfo",
    "Targets",
    "WeightSchedule",
    "bank_bytes",
    "gather_rows",
    "list_methods",
    "methods",
    "needs",
    "normalise",
    "parse",
    "register",
    "sum_over_workers",
]
