"""The typed experiment: one YAML file becomes one frozen, fully checked `Experiment`.

Pure: it reads the YAML files that it is given and nothing else; no torch, no Ray, no numpy.
"""

from kdray.experiment.part import Part, digest_of
from kdray.experiment.schema import (
    Checkpointing,
    Cluster,
    Columns,
    Data,
    Evaluate,
    Experiment,
    LrRule,
    ModelSpec,
    Optimizer,
    Schedule,
    Student,
    Teacher,
    Train,
)

__all__ = [
    "Checkpointing",
    "Cluster",
    "Columns",
    "Data",
    "Evaluate",
    "Experiment",
    "LrRule",
    "ModelSpec",
    "Optimizer",
    "Part",
    "Schedule",
    "Student",
    "Teacher",
    "Train",
    "digest_of",
]
