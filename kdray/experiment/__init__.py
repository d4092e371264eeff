"""The typed experiment: one YAML file becomes one frozen, fully checked `Experiment`.

Pure: it reads the YAML files that it is given and nothing else; no torch, no Ray, no numpy.
"""

from kdray.experiment.balance_part import Balance
from kdray.experiment.changes import with_changes
from kdray.experiment.comparison import Comparison
from kdray.experiment.data_part import Columns, Data, LabelNoise
from kdray.experiment.load import (
    comparison_from_dict,
    experiment_from_dict,
    load_comparison,
    load_experiment,
    place_of,
    read_tree,
    to_yaml,
)
from kdray.experiment.mix_part import Mix
from kdray.experiment.pack_part import Pack
from kdray.experiment.part import Part, digest_of
from kdray.experiment.paths import get_path, set_path
from kdray.experiment.phases_part import Phase, phases_of
from kdray.experiment.schema import (
    Cluster,
    Evaluate,
    Experiment,
    LinearProbe,
    ModelSpec,
    Student,
    Teacher,
)
from kdray.experiment.search_part import At, Scheduler, Search, Searcher, Transfer
from kdray.experiment.train_part import Checkpointing, LrRule, Optimizer, Schedule, Train

__all__ = [
    "At",
    "Balance",
    "Checkpointing",
    "Cluster",
    "Columns",
    "Comparison",
    "Data",
    "Evaluate",
    "Experiment",
    "LabelNoise",
    "LinearProbe",
    "LrRule",
    "Mix",
    "ModelSpec",
    "Optimizer",
    "Pack",
    "Part",
    "Phase",
    "Schedule",
    "Scheduler",
    "Search",
    "Searcher",
    "Student",
    "Teacher",
    "Train",
    "Transfer",
    "comparison_from_dict",
    "digest_of",
    "experiment_from_dict",
    "get_path",
    "load_comparison",
    "load_experiment",
    "phases_of",
    "place_of",
    "read_tree",
    "set_path",
    "to_yaml",
    "with_changes",
]
